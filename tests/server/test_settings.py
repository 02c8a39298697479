"""The server's settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from oomcast.errors import SettingsError
from oomcast_server.settings import TABLE, ServerSettings, load

pytestmark = pytest.mark.fast


def test_every_row_of_the_table_is_a_field() -> None:
    fields = {field.name for field in dataclasses.fields(ServerSettings)}
    assert fields == {setting.name for setting in TABLE} | {"ssh_address"}


def test_defaults() -> None:
    settings = load({}, home="/h")
    assert (settings.host, settings.port, settings.database) == ("127.0.0.1", 6662, Path("/h/data/oomcast.db"))


def test_what_is_given_wins_over_the_environment() -> None:
    environ = {"OOMCAST_PORT": "7000", "OOMCAST_HOST": "::1"}
    settings = load(environ, port=8000)
    assert (settings.port, settings.host) == (8000, "::1")


@pytest.mark.parametrize("store", ["/d/x.db", "sqlite:////d/x.db"])
def test_a_store_is_a_path_or_a_sqlite_url(store: str) -> None:
    assert load({}, store=store).database == Path("/d/x.db")
    assert load({}, store=store).postgres_url is None
    assert load({}, store=store).store_shown == "/d/x.db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_store_may_be_a_postgresql(scheme: str) -> None:
    settings = load({}, store=f"{scheme}://me:secret@box:5433/oomcast?sslmode=require")
    assert settings.postgres_url == "postgresql://me:secret@box:5433/oomcast?sslmode=require"
    assert settings.store_shown == "postgresql://me@box:5433/oomcast"
    assert "secret" not in repr(settings)


def test_a_refused_store_does_not_show_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        load({"OOMCAST_STORE": "postgresql://me:secret@box"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", "x"),
        ("host", "a b"),
        ("store", "mysql://x/y"),
        ("store", "postgresql://x"),
        ("store", "postgresql://me:secret@x:port/y"),
        ("allowed_hosts", "*"),
        ("allowed_hosts", "evil example"),
        ("token", "with\nnewline"),
        ("token", "späß"),
    ],
)
def test_values_that_can_t_be_used(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as refused:
        load({}, **{name: value})
    assert "\n" not in str(refused.value)


def test_a_refused_token_is_not_shown() -> None:
    with pytest.raises(SettingsError) as refused:
        load({"OOMCAST_TOKEN": "sécret"})
    assert "cret" not in str(refused.value)


def test_allowed_hosts_are_reachable_by_any_case() -> None:
    assert "box.example" in load({}, allowed_hosts="Box.Example, other").reachable_hosts


@pytest.mark.parametrize(("said", "address"), [("1.2.3.4 5 6.7.8.9 22", "6.7.8.9"), ("", None), ("odd", None)])
def test_the_address_that_ssh_came_to(said: str, address: str | None) -> None:
    assert load({"SSH_CONNECTION": said}).ssh_address == address
