"""The commands that look at runs: list, show, compare. Clients of the server's REST interface, no more."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from oomcast import settings
from oomcast.client import Client, connect
from oomcast.lookup import find_run

__all__ = ["add_to"]

_PIPED_WIDTH = 400  # whoever reads it is no terminal, and cuts the lines as it likes
_MOST_COMPARED = 10

_Json = Annotated[bool, typer.Option("--json", help="Print what the server says, for programs.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    app.command("list")(list_)
    app.command()(show)
    app.command()(compare)


def list_(
    project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only runs that are live, silent, finished, failed, died or stopped.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Only runs on this machine.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Only runs with words that begin so: name, project, host, command, tags, id.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1000)] = 50,
    json: _Json = False,
) -> None:
    """List the runs that the server has, live ones first."""
    filters = {"project": project, "state": state, "host": host, "tag": tag, "text": text}
    client = connect(settings.load())
    if json:
        _print_json(client.get_bytes("/api/runs", limit=limit, **filters))
        return
    page = client.get_json("/api/runs", limit=limit, **filters)
    if not page["runs"]:
        typer.echo(_nothing(client, any(filters.values())))
        return
    from oomcast import run_tables  # rich, which no other command needs

    console = _console()
    console.print(run_tables.listed(page["runs"], page["now_ms"], console.width))
    if page.get("next"):
        typer.echo(f"these are {len(page['runs'])} of more: give --limit, or filters")


def _nothing(client: Client, filtered: bool) -> str:
    if filtered:
        return f"no run of {client.server} is so: `oomcast list` without filters shows all"
    return (
        f"{client.server} has no runs yet: add `MemoryMonitor()` to a training's callbacks, "
        "or watch any command with `oomcast run -- COMMAND`"
    )


def show(
    run: Annotated[str, typer.Argument(help="Its id, the beginning of it, or its name.", metavar="RUN")],
    json: _Json = False,
) -> None:
    """Show one run: how it stands or ended, its memory, its processes, its last events."""
    client = connect(settings.load())
    path = f"/api/runs/{find_run(client, run)}"
    if json:
        _print_json(client.get_bytes(path))
        return
    from oomcast import run_tables  # as above

    console = _console()
    detail, figures = client.get_json(path), client.get_json(f"{path}/summary")
    for at, part in enumerate(run_tables.shown(detail, figures, f"{client.server}/runs/{detail['id']}")):
        if at > 1:
            console.print()
        console.print(part)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two to ten of them, each as in `show`.", metavar="RUN RUN...")],
    json: _Json = False,
) -> None:
    """Compare runs: duration, throughput, peak, growth per batch, faults and stalls of their main processes."""
    client = connect(settings.load())
    ids = list(dict.fromkeys(find_run(client, text) for text in runs))
    if not 2 <= len(ids) <= _MOST_COMPARED:
        typer.echo(f"oomcast: {len(ids)} run given: expected 2 to {_MOST_COMPARED} different ones", err=True)
        raise typer.Exit(2)
    if json:
        _print_json(client.get_bytes("/api/compare", runs=",".join(ids)))
        return
    from oomcast import run_tables  # as above

    console = _console()
    for part in run_tables.compared(client.get_json("/api/compare", runs=",".join(ids))["runs"], console.width):
        console.print(part)


def _print_json(body: bytes) -> None:
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.flush()


def _console() -> Any:
    from rich.console import Console

    # Its width is the terminal's; NO_COLOR, TERM and COLUMNS are obeyed by rich itself.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
