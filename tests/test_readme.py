"""README says what the code does: its settings table is the code's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from oomcast import settings
from oomcast.settings import Setting
from oomcast_server import settings as server_settings

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parent.parent


def shown(setting: Setting) -> str:
    """How README says a default."""
    value = setting.default
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return "1" if value else "0"
    if setting.name in ("journal_max", "ballast"):
        return f"{value >> 20}MiB"
    return str(value)


def row(setting: Setting, argument: bool) -> str:
    """One line of README's table."""
    name = f"`{setting.name}`" if argument else "–"
    return f"| `{setting.variable}` | {name} | {shown(setting)} | {setting.help} |"


def rows() -> list[str]:
    """Every setting once: the callback side's, then what only the server has."""
    arguments = {"project", "run_name", "server", "tags", "sample_every", "mode"}
    arguments |= {"on_critical", "critical_headroom", "checkpoint_dir", "ballast"}
    known = {setting.variable for setting in settings.TABLE}
    own = [setting for setting in server_settings.TABLE if setting.variable not in known]
    return [row(setting, setting.name in arguments) for setting in settings.TABLE] + [
        f"| `{setting.variable}` | {'`--' + setting.name + '`' if setting.name in SERVE_OPTIONS else '–'} "
        f"| {shown(setting)} | {setting.help} |"
        for setting in own
    ]


SERVE_OPTIONS = {"host", "port", "store"}


@pytest.mark.parametrize("line", rows())
def test_each_setting_stands_in_readme_as_in_the_code(line: str) -> None:
    assert line in (ROOT / "README.md").read_text().splitlines()


def test_readme_names_no_setting_that_is_gone() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert {line for line in lines if line.startswith("| `OOMCAST_")} == set(rows())


def test_every_room_in_the_code_map_exists() -> None:
    text = (ROOT / "README.md").read_text().partition("## How it is built")[2]
    rooms = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    for room in rooms:
        base = ""
        for part in room.replace("`", "").split(","):
            path = part.strip()
            base = path.rpartition("/")[0] if "/" in path else base
            assert (ROOT / path).exists() or (ROOT / base / path).exists(), path
