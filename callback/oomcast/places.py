"""Where things lie on disk, and the token that agent, server and command line share.

Folders are private (0700) and files with a secret are 0600. `home` gathers all of them in one folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import tempfile
from pathlib import Path

import platformdirs

from oomcast.errors import SettingsError

__all__ = ["Places", "make_private", "places", "read_or_create_token", "read_token"]


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders of one user's oomcast; none of them need exist yet."""

    config: Path  # token
    state: Path  # journals, logs, pid files
    data: Path  # the database


def places(home: str | None) -> Places:
    """The folders under `home`, or the system's own places for configuration, state and data."""
    if home is not None:
        root = Path(home).expanduser()
        return Places(config=root / "config", state=root / "state", data=root / "data")
    system = platformdirs.PlatformDirs("oomcast", appauthor=False)
    return Places(config=system.user_config_path, state=system.user_state_path, data=system.user_data_path)


def make_private(folder: Path) -> Path:
    """Make `folder`, and any folder above it that is missing, for this user's eyes only.

    Raises:
        SettingsError: it can't be made or written to (a read-only or full disk); the text says what to do.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise SettingsError(_cannot_write(folder, error.strerror or str(error))) from error
    if not writable:
        raise SettingsError(_cannot_write(folder, "no permission"))
    return folder


def _cannot_write(folder: Path, why: str) -> str:
    return f"can't write to {folder} ({why}): set OOMCAST_HOME to a folder that can be written"


def read_token(config: Path) -> str | None:
    """The token in the config folder, or None if there is none yet."""
    with contextlib.suppress(OSError):
        return (config / "token").read_text("ascii", errors="replace").strip() or None
    return None


def read_or_create_token(config: Path) -> str:
    """The token in the config folder; a new random one (256 bits) is written first if there is none.

    Raises:
        SettingsError: the folder can't be written.
    """
    if token := read_token(config):
        return token
    make_private(config)
    # Written aside and linked into place: of two processes that start at once, both must end up with the same token.
    try:
        with tempfile.NamedTemporaryFile("w", dir=config, prefix=".token-") as draft:
            draft.write(secrets.token_urlsafe(32) + "\n")
            draft.flush()
            with contextlib.suppress(FileExistsError):
                os.link(draft.name, config / "token")
    except OSError as error:
        raise SettingsError(_cannot_write(config, error.strerror or str(error))) from error
    token = read_token(config)
    if token is None:
        raise SettingsError(_cannot_write(config, "the token could not be read back"))
    return token
