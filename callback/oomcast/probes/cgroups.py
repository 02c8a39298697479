"""The cgroups that a process lives in, as this process sees them: its own first, then those above it.

Two files say where they are, both relative to the reader's cgroup namespace (cgroup_namespaces(7)): /proc/<pid>/cgroup
gives the process's path in each hierarchy, and the fourth field of /proc/self/mountinfo the path of what is mounted
(proc_pid_mountinfo(5)). A container may show the whole hierarchy, only its own part of it, or a part that begins above
its namespace ("/.."); what the mount does not show can't be read, and is left out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from oomcast.probes.files import read_file

__all__ = ["Cgroup", "find_cgroups", "memory_cgroups"]

_ESCAPED = re.compile(r"\\([0-7]{3})")
_LONGEST_NAME = 300
_DEEPEST = 64


class Cgroup(NamedTuple):
    """One cgroup, of v2 or of v1's memory hierarchy; it may have no memory controller."""

    version: int
    folder: str
    name: str  # below the mount, for people: "/job/7"; "/" is what is mounted, in a container its own cgroup


class _Mount(NamedTuple):
    version: int
    root: list[str]  # path within its hierarchy, in parts; ".." leads out of the reader's namespace
    point: str


def find_cgroups(pid: int, root: Path = Path("/")) -> list[Cgroup]:
    """Those of v2 and of v1's memory hierarchy that `pid` is in and that can be seen here; some 80 µs.

    Args:
        pid: the process.
        root: the file system's root; tests pass a recorded tree.
    """
    top = str(root).rstrip("/")
    mounts = _mounts(top)
    found: list[Cgroup] = []
    for version, path in _memberships(read_file(f"{top}/proc/{pid}/cgroup")):
        shown = [(mount, below) for mount in mounts if (below := _below(mount, version, path)) is not None]
        if shown:
            # The one that shows the most, should it be mounted in several places.
            mount, below = min(shown, key=lambda pair: (-_exists(*pair), len(pair[0].root)))
            found += _upwards(mount, below)
    return found


def memory_cgroups(pid: int, root: Path = Path("/")) -> list[tuple[int, str]]:
    """(version, folder) of every cgroup that may limit `pid`'s memory, its own first, then those above it."""
    return [(cgroup.version, cgroup.folder) for cgroup in find_cgroups(pid, root)]


def _memberships(text: bytes) -> list[tuple[int, list[str]]]:
    """(version, parts of the path) from /proc/<pid>/cgroup: cgroups(7)."""
    found = []
    for line in os.fsdecode(text).split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        version = 2 if number == "0" else 1 if "memory" in controllers.split(",") else None
        if version and colon and path.startswith("/"):
            found.append((version, _parts(path)))
    return found


def _mounts(top: str) -> list[_Mount]:
    lines = os.fsdecode(read_file(f"{top}/proc/self/mountinfo")).split("\n")
    found = [mount for line in lines if " - cgroup" in line and (mount := _by_mountinfo(line, top))]
    if not found:  # an emulated procfs may lack it
        lines = os.fsdecode(read_file(f"{top}/proc/self/mounts")).split("\n")
        found = [mount for line in lines if "cgroup" in line and (mount := _by_mounts(line, top))]
    return found


def _by_mountinfo(line: str, top: str) -> _Mount | None:
    before, _, after = line.partition(" - ")
    fields, (kind, *rest) = before.split(" "), after.split(" ")
    version = _version(kind, rest[-1] if rest else "")
    if version is None or len(fields) < 5:
        return None
    return _Mount(version, _parts(_plain(fields[3])), top + _plain(fields[4]).rstrip("/"))


def _by_mounts(line: str, top: str) -> _Mount | None:
    fields = line.split(" ")
    version = _version(fields[2], fields[3]) if len(fields) > 3 else None
    return None if version is None else _Mount(version, [], top + _plain(fields[1]).rstrip("/"))


def _version(kind: str, options: str) -> int | None:
    if kind == "cgroup2":
        return 2
    return 1 if kind == "cgroup" and "memory" in options.split(",") else None


def _below(mount: _Mount, version: int, path: list[str]) -> list[str] | None:
    """The parts of a cgroup's path below a mount; None if it is not there."""
    depth = len(mount.root)
    if mount.version != version:
        return None
    if path[:depth] == mount.root and ".." not in path[depth:]:
        return path[depth:]
    # The mount begins above the namespace, and the names between the two are told to nobody: only its top is known.
    above = all(part == ".." for part in mount.root) and path.count("..") < depth
    return [] if above else None


def _exists(mount: _Mount, below: list[str]) -> bool:
    return os.path.isdir("/".join([mount.point, *below]))


def _upwards(mount: _Mount, below: list[str]) -> list[Cgroup]:
    while below and not _exists(mount, below):
        below = below[:-1]  # it has been removed, or the path is the host's in spite of what the mount table says
    # Nobody nests them deeper; the nearest ones count.
    chain = [below[:depth] for depth in range(len(below), -1, -1)][:_DEEPEST]
    return [Cgroup(mount.version, "/".join([mount.point, *parts]), _name(parts)) for parts in chain]


def _name(parts: list[str]) -> str:
    name = "/" + "/".join(parts).encode("utf-8", "replace").decode()
    return name if len(name) <= _LONGEST_NAME else "/…" + name[-_LONGEST_NAME:]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _plain(text: str) -> str:
    """Without the escapes of a mount table: blanks and backslashes stand there as octal numbers."""
    return _ESCAPED.sub(lambda escape: chr(int(escape[1], 8)), text)
