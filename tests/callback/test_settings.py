"""Settings: what wins over what, and what is said of values that can't be used."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from oomcast import console
from oomcast.errors import SettingsError
from oomcast.places import places, read_or_create_token
from oomcast.settings import TABLE, Settings, load, parse_size

pytestmark = pytest.mark.fast


def test_code_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"OOMCAST_PROJECT": "from env", "OOMCAST_TAGS": "a, b"}
    values = load(environ, project="from code")
    assert (values.project, values.tags, values.mode) == ("from code", ("a", "b"), "online")
    assert load(environ).project == "from env"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "onlin"}, "mode='onlin' can't be used: expected one of online, offline, disabled"),
        ({"sample_every": 0}, "sample_every=0 can't be used: expected a whole number from 1 up"),
        ({"sample_every": 1.5}, "sample_every=1.5"),
        ({"server": "ftp://x"}, "expected an address such as http://127.0.0.1:6662"),
        ({"server": "http://host:99999"}, "server='http://host:99999'"),
        ({"tags": ["t"] * 101}, "expected 100 at most, not 101"),
        ({"project": "x" * 201}, "expected 1 to 200 characters"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_with_what_was_expected(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, **given)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_is_told_and_the_default_stands() -> None:
    told: list[str] = []
    values = load({"OOMCAST_MODE": "x"}, on_bad_variable=lambda error: told.append(str(error)))
    assert values.mode == "online"
    assert told == ["OOMCAST_MODE='x' can't be used: expected one of online, offline, disabled; using online instead"]


def test_a_token_is_never_shown_in_an_error() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"OOMCAST_TOKEN": "s" * 300})
    assert "sss" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"), [("256MiB", 256 << 20), ("1.5 GiB", 3 << 29), ("8g", 8 << 30), ("500MB", 500_000_000), ("77", 77)]
)
def test_sizes_are_binary_unless_they_say_otherwise(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-5MiB", "12 parsecs", "1e400GiB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        parse_size(text)


def test_the_table_and_the_dataclass_name_the_same_settings() -> None:
    assert [row.name for row in TABLE] == [field.name for field in dataclasses.fields(Settings)]


def test_the_token_is_random_private_and_made_once(tmp_path: Path) -> None:
    token = read_or_create_token(tmp_path / "config")
    assert token == read_or_create_token(tmp_path / "config")
    assert token != read_or_create_token(tmp_path / "other")
    assert len(token) >= 40
    assert stat.S_IMODE((tmp_path / "config" / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o700
    assert os.listdir(tmp_path / "config") == ["token"]


def test_a_home_gathers_everything(tmp_path: Path) -> None:
    assert {path.parent for path in dataclasses.astuple(places(str(tmp_path)))} == {tmp_path}


def test_a_link_signs_in_and_leads_to_the_run() -> None:
    assert console.link("http://h:1", "t/+", "abc") == "http://h:1/login?token=t%2F%2B&run=abc"
    assert console.link("http://h:1", None, "abc") == "http://h:1/runs/abc"
