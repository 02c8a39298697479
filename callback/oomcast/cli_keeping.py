"""The commands about keeping runs: export, import, projects, retain, prune, delete."""

from __future__ import annotations

import contextlib
import gzip
import json as json_module
import os
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from oomcast import console, settings
from oomcast.client import Client, ClientError, connect, token_for_server
from oomcast.lookup import find_run

__all__ = ["add_to"]

_POLL_S = 0.5
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

_Json = Annotated[bool, typer.Option("--json", help="Print it for programs.")]
_Run = Annotated[str, typer.Argument(help="Its id, the beginning of it, or its name.", metavar="RUN")]


class _Format(str, Enum):
    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    app.command()(export)
    app.command(name="import")(import_)
    app.command()(projects)
    app.command()(retain)
    app.command()(prune)
    app.command()(delete)


def export(
    run: _Run,
    form: Annotated[_Format, typer.Option("--format", help="jsonl holds everything, the others are tables.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; *.gz is compressed. Standard output if not given.")
    ] = None,
) -> None:
    """Write a run to a file that pandas, DuckDB or `oomcast import` reads: oomcast export RUN --format csv"""
    client = connect(settings.load())
    if output is None and sys.stdout.isatty() and form is _Format.PARQUET:
        raise ClientError("Parquet is nothing for a terminal: name a file with -o")
    path = f"/api/runs/{find_run(client, run)}/export"
    with _written(output) as file:
        for chunk in client.stream(path, format=form.value):
            file.write(chunk)


@contextlib.contextmanager
def _written(output: Path | None) -> Iterator[BinaryIO]:
    """A file that is there only once it is whole."""
    if output is None:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # whoever reads has had enough; nothing is flushed into the pipe at the end either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        return
    try:
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}-", delete=False) as draft:
            try:
                with gzip.open(draft, "wb") if output.suffix == ".gz" else contextlib.nullcontext(draft) as file:
                    yield file  # type: ignore[misc]
                draft.flush()
                os.chmod(draft.name, 0o666 & ~_umask())
                os.replace(draft.name, output)
            except BaseException:
                os.unlink(draft.name)
                raise
    except OSError as error:
        raise ClientError(f"can't write {output}: {error.strerror or error}") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def import_(
    file: Annotated[Path, typer.Argument(help="What `oomcast export` wrote, gzipped or not.", metavar="FILE")],
    project: Annotated[str | None, typer.Option(help="The project to list it under.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    as_new: Annotated[bool, typer.Option("--as-new", help="As a run of its own, whatever the server has.")] = False,
) -> None:
    """Send an exported run to the server; again is harmless, it goes on where it was."""
    from oomcast.importing import Changes, import_trace  # the network's libraries, which few commands need

    values = settings.load(project=project, run_name=name)
    changes = Changes(values.project if project else None, values.run_name if name else None, as_new)
    token = token_for_server(values)
    done = import_trace(file, values.server, token, changes, console.say)
    said = f"{done.name}: {done.sent} rows sent of {done.sources} source{'s' * (done.sources != 1)}"
    if done.known:
        said = f"{said}; the rest was there" if done.sent else f"{done.name}: all of it was there already"
    if done.known and (project or name):
        said += ", and its name and project stay (--as-new makes another run)"
    typer.echo(f"{said}: {values.server}/runs/{done.run_id}")


def projects(json: _Json = False) -> None:
    """List the projects: runs, samples, what they take on disk, and how long they are kept."""
    storage = connect(settings.load()).get_json("/api/storage")
    if json:
        _print_json(storage)
        return
    rows: list[tuple[str, ...]] = [("PROJECT", "RUNS", "LIVE", "SAMPLES", "DISK", "FULL RATE", "ROLLUPS")]
    for project in storage["projects"]:
        counts = (str(project[name]) for name in ("runs", "live", "samples"))
        own = project["retention"]
        kept = [_kept(project[name], own[name] is None) for name in ("full_days", "rollup_days")]
        rows.append((_plain(project["name"]), *counts, _size(project["estimated_bytes"]), *kept))
    _print_table(rows)
    used = _size(storage["database_bytes"])
    unused, free = storage["unused_bytes"], storage["disk_free_bytes"]
    inside = f", {_size(unused)} of it to be used again" if unused else ""
    typer.echo(f"database: {used}{inside}" + (f"; {_size(free)} free on its disk" if free is not None else ""))


def retain(
    project: Annotated[str, typer.Argument(help="The project's whole name.", metavar="PROJECT")],
    full_days: Annotated[
        str | None, typer.Option(help="Keep every sample for so many days; 0: for ever; default: as the server says.")
    ] = None,
    rollup_days: Annotated[
        str | None, typer.Option(help="Keep what older charts are made of for so many days; as above.")
    ] = None,
) -> None:
    """Set for how long a project keeps its data: oomcast retain PROJECT --full-days 7 --rollup-days 90"""
    given = {"full_days": full_days, "rollup_days": rollup_days}
    change = {name: _days(name, value) for name, value in given.items() if value is not None}
    if not change:
        raise ClientError("nothing to change is given: expected --full-days, --rollup-days, or both")
    kept = connect(settings.load()).send_json("PUT", f"/api/projects/{urllib.parse.quote(project, safe='')}", change)
    shown = [f"{words} {_kept(kept[name], kept[name] is None)}" for name, words in _KEPT.items()]
    typer.echo(f"{_plain(project)}: {', '.join(shown)}")


_KEPT = {"full_days": "every sample", "rollup_days": "rollups"}


def _days(name: str, value: str) -> int | None:
    if value.strip().lower() == "default":
        return None
    if value.isascii() and value.isdigit() and len(value) < 6:
        return int(value)
    option = name.replace("_", "-")
    raise ClientError(f"--{option} {value[:40]!r}: expected a number of days, 0 (for ever) or default")


def _kept(days: int | None, by_default: bool) -> str:
    if days is None:
        return "as the server says"
    words = "for ever" if days == 0 else "1 day" if days == 1 else f"{days} days"
    return f"{words} (default)" if by_default else words


def prune(
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: _Json = False,
) -> None:
    """Remove now what is older than its project keeps it; the server does it each hour by itself."""
    client = connect(settings.load())
    report = client.send_json("POST", "/api/prune", {"project": project, "dry_run": dry_run})
    if json:
        _print_json(report)
    elif not report["samples"] and not report["rolled_samples"]:
        typer.echo("nothing is too old")
    else:
        parts = [f"{report['samples']} samples at full rate", f"the rollups of {report['rolled_samples']} samples"]
        counts = (report["samples"], report["rolled_samples"])
        what = " and ".join(part for part, count in zip(parts, counts, strict=True) if count)
        room = _size(report["estimated_bytes"])
        typer.echo(f"{what}, of {report['runs']} runs, {'would go' if dry_run else 'go'}: about {room}")
    if not dry_run:
        _wait_for_the_end(client, quiet=json)


def _wait_for_the_end(client: Client, quiet: bool) -> None:
    while (progress := client.get_json("/api/prune"))["running"]:
        time.sleep(_POLL_S)
    if progress["error"]:
        raise ClientError(progress["error"])
    if not quiet:
        typer.echo("done; the database uses the room again before its file grows")


def delete(
    run: _Run,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a run that has ended, for good."""
    client = connect(settings.load())
    run_id = find_run(client, run)
    path = f"/api/runs/{run_id}"
    if not yes:
        found = client.get_json(path)
        about = f"{_plain(found['name'])} of {_plain(found['project'])} ({run_id}, {found['samples']} samples)"
        if not typer.confirm(f"delete {about} for good?"):
            raise typer.Exit(1)
    client.send_json("DELETE", path)
    typer.echo(f"{run_id} is deleted")


def _print_json(value: Any) -> None:
    typer.echo(json_module.dumps(value, indent=2))


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
