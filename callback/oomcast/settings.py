"""Every setting of the callback side in one table, and the only place of it that reads the environment.

An argument in code wins over the environment, the environment over the default. README's table is made from `TABLE`
(a test ties them together).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from oomcast.errors import SettingsError

__all__ = [
    "AGENT_LIMITS",
    "DEFAULT_SERVER",
    "LOOPBACK",
    "MODES",
    "ON_CRITICAL",
    "TABLE",
    "Setting",
    "Settings",
    "inherited_environment",
    "load",
    "origins",
    "parse_size",
    "resolve",
    "ssh_connection",
    "wants_colour",
]

DEFAULT_SERVER = "http://127.0.0.1:6662"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What an agent is started with: it is small and must stay so, whatever libraries it happens to load.
AGENT_LIMITS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
MODES = ("online", "offline", "disabled")
ON_CRITICAL = ("warn", "stop", "checkpoint_and_stop")

_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}
_SIZE_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "t": 1 << 40, "tib": 1 << 40, "tb": 10**12}


def parse_size(text: str | int) -> int:
    """Bytes from "256MiB", "1.5 GiB", "8g" (binary), "500MB" (decimal) or a plain number.

    Raises:
        ValueError: not a size.
    """
    expected = "expected a size such as 256MiB or 8GiB"
    digits = str(text).strip().rstrip("aAbBgGiIkKmMtT ")
    unit = str(text).strip()[len(digits) :].strip().lower()
    try:
        number = float(digits)
    except ValueError:
        raise ValueError(expected) from None
    if unit not in _SIZE_UNITS or not 0 <= number < 1e18:
        raise ValueError(expected)
    return int(number * _SIZE_UNITS[unit])


def _text(value: Any) -> str:
    text = str(value).strip()
    if not 0 < len(text) <= 200:
        raise ValueError("expected 1 to 200 characters")
    return text


def _optional_text(value: Any) -> str | None:
    return _text(value) if value not in (None, "") else None


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise ValueError("expected 1 or 0") from None


def _positive(value: Any) -> int:
    expected = "expected a whole number from 1 up"
    try:
        number = int(value)
    except (ValueError, TypeError):
        raise ValueError(expected) from None
    if number < 1 or (isinstance(value, float) and value != number):
        raise ValueError(expected)
    return number


def _mode(value: Any) -> str:
    if value not in MODES:
        raise ValueError(f"expected one of {', '.join(MODES)}")
    return str(value)


def _on_critical(value: Any) -> Any:
    if not callable(value) and value not in ON_CRITICAL:
        raise ValueError(f"expected one of {', '.join(ON_CRITICAL)}, or a function that takes the assessment")
    return value


def _share(value: Any) -> float:
    expected = "expected a share of the limit above 0 and below 1, such as 0.05"
    try:
        number = float(value)
    except (ValueError, TypeError):
        raise ValueError(expected) from None
    if not 0 < number < 1:
        raise ValueError(expected)
    return number


def _path(value: Any) -> str:
    path = os.path.expanduser(os.fsdecode(value))
    if not path.strip() or "\0" in path:
        raise ValueError("expected a folder's path")
    return path


def _tags(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    tags = tuple(_text(part) for part in parts if str(part).strip())
    if len(tags) > 100:
        raise ValueError(f"expected 100 at most, not {len(tags)}")
    return tags


def _url(value: Any) -> str:
    url = str(value).strip().rstrip("/")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected an address such as http://127.0.0.1:6662")
    _ = parts.port  # raises ValueError where it is no number
    return url


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting: its name in code, its environment variable, what it is when nobody says, and how to read it."""

    name: str
    variable: str
    default: Any
    help: str
    parse: Callable[[Any], Any]


TABLE: tuple[Setting, ...] = (
    Setting("server", "OOMCAST_SERVER", DEFAULT_SERVER, "Where samples are sent; also the dashboard's address.", _url),
    Setting("project", "OOMCAST_PROJECT", "default", "The project that the run is listed under.", _text),
    Setting("run_name", "OOMCAST_RUN_NAME", None, "The run's name; a made-up one if empty.", _optional_text),
    Setting(
        "run_id",
        "OOMCAST_RUN_ID",
        None,
        "Joins processes to one run: any text that all of them are given and that no other run is.",
        _optional_text,
    ),
    Setting("tags", "OOMCAST_TAGS", (), "Words to find the run by, separated by commas.", _tags),
    Setting(
        "mode", "OOMCAST_MODE", "online", "online, offline (record; `oomcast sync` sends it later) or disabled.", _mode
    ),
    Setting(
        "sample_every",
        "OOMCAST_SAMPLE_EVERY",
        1,
        "One sample every so many batches; its peak covers all of them.",
        _positive,
    ),
    Setting(
        "on_critical",
        "OOMCAST_ON_CRITICAL",
        "warn",
        "What to do when memory is nearly out: warn, stop, checkpoint_and_stop, or in code a function that takes the "
        "assessment.",
        _on_critical,
    ),
    Setting(
        "critical_headroom",
        "OOMCAST_CRITICAL_HEADROOM",
        0.05,
        "Nearly out means that less than this share of the limit is left at a batch's peak.",
        _share,
    ),
    Setting(
        "checkpoint_dir",
        "OOMCAST_CHECKPOINT_DIR",
        "checkpoints",
        "Where checkpoint_and_stop saves to; made when it is needed.",
        _path,
    ),
    Setting(
        "ballast",
        "OOMCAST_BALLAST",
        32 << 20,
        "Memory that checkpoint_and_stop holds, and gives back before it saves.",
        parse_size,
    ),
    Setting(
        "reset_peak",
        "OOMCAST_RESET_PEAK",
        True,
        "Re-arm the kernel's high-water mark at each sample, which gives each its own peak. "
        "Turn it off if something else in the process reads VmHWM or ru_maxrss.",
        _flag,
    ),
    Setting(
        "autostart",
        "OOMCAST_AUTOSTART",
        True,
        "Start a server in the background if none listens at the default address.",
        _flag,
    ),
    Setting(
        "journal_max",
        "OOMCAST_JOURNAL_MAX",
        256 << 20,
        "Disk space for samples that no server has taken yet, such as 256MiB; "
        "beyond it the oldest go and the chart shows the hole.",
        parse_size,
    ),
    Setting(
        "home",
        "OOMCAST_HOME",
        None,
        "One folder for token, journals and database, instead of the system's own places.",
        _optional_text,
    ),
    Setting("token", "OOMCAST_TOKEN", None, "The server's token; the config folder's if empty.", _optional_text),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values in force; one field for each row of `TABLE`, with its meaning there."""

    server: str
    project: str
    run_name: str | None
    run_id: str | None
    tags: tuple[str, ...]
    mode: str
    sample_every: int
    on_critical: Any  # a word of `ON_CRITICAL`, or Callable[[Assessment], object]
    critical_headroom: float
    checkpoint_dir: str
    ballast: int
    reset_peak: bool
    autostart: bool
    journal_max: int
    home: str | None
    token: str | None


def resolve(
    table: tuple[Setting, ...],
    environ: Mapping[str, str],
    given: Mapping[str, Any],
    on_bad_variable: Callable[[SettingsError], None] | None = None,
) -> dict[str, Any]:
    """The value of each setting in `table`: given in code (not None), else the environment's, else the default.

    Args:
        table: the settings.
        environ: the environment.
        given: values from code.
        on_bad_variable: told of a variable that can't be used, for which the default then stands; without it, raised.

    Raises:
        SettingsError: a value that can't be used; the text names it, what was expected, and where it was set.
    """
    values: dict[str, Any] = {}
    for setting in table:
        value, from_code = given.get(setting.name), True
        if value is None:
            value, from_code = environ.get(setting.variable), False
        try:
            values[setting.name] = setting.default if value in (None, "") else _parse(setting, value, from_code)
        except SettingsError as error:
            if from_code or on_bad_variable is None:
                raise
            on_bad_variable(SettingsError(f"{error}; using {setting.default or 'none'} instead"))
            values[setting.name] = setting.default
    return values


def _parse(setting: Setting, value: Any, from_code: bool) -> Any:
    try:
        return setting.parse(value)
    except (ValueError, TypeError, OverflowError) as error:
        where = setting.name if from_code else setting.variable
        shown = "…" if setting.name == "token" or _may_be_secret(str(value)) else repr(value)
        raise SettingsError(f"{where}={shown} can't be used: {error}") from None


def _may_be_secret(value: str) -> bool:
    """Whether it may be an address with a password in it."""
    return "@" in value or "password" in value.lower()


def load(
    environ: Mapping[str, str] | None = None,
    *,
    on_bad_variable: Callable[[SettingsError], None] | None = None,
    **given: Any,
) -> Settings:
    """The settings in force.

    Args:
        environ: stands in for the process's environment.
        on_bad_variable: see `resolve`.
        given: values from code; None means not given.

    Raises:
        SettingsError: a value that can't be used.
    """
    return Settings(**resolve(TABLE, os.environ if environ is None else environ, given, on_bad_variable))


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for a child process."""
    return dict(os.environ)


def ssh_connection(environ: Mapping[str, str] | None = None) -> str | None:
    """What sshd says of the connection ("client port server port"), or None in a local terminal."""
    return (os.environ if environ is None else environ).get("SSH_CONNECTION") or None


def origins(table: tuple[Setting, ...] = TABLE, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Setting → the variable that sets it, or "default": nobody does, or the variable can't be used."""
    values = os.environ if environ is None else environ
    return {setting.name: setting.variable if _sets(setting, values) else "default" for setting in table}


def _sets(setting: Setting, environ: Mapping[str, str]) -> bool:
    value = environ.get(setting.variable)
    with contextlib.suppress(SettingsError):
        if value:
            _parse(setting, value, False)
            return True
    return False


def wants_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the user's terminal takes colours: https://no-color.org, and TERM."""
    values = os.environ if environ is None else environ
    return not values.get("NO_COLOR") and values.get("TERM", "dumb") != "dumb"
