"""`python -m oomcast_server serve` and `stop`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from oomcast.errors import OomcastError
from oomcast_server.listening import PortInUse
from oomcast_server.pidfile import stop as stop_server
from oomcast_server.serving import serve as run_server
from oomcast_server.settings import load

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="The server of oomcast."
)

Host = Annotated[Optional[str], typer.Option(help="Address to listen on [127.0.0.1].")]  # noqa: UP045 - read by typer
Port = Annotated[Optional[int], typer.Option(help="Port to listen on; 0 picks a free one [6662].")]  # noqa: UP045
_STORE_HELP = "SQLite file to keep the data in, or postgresql://USER@HOST/DATABASE (the password in ~/.pgpass)."
Store = Annotated[Optional[str], typer.Option(help=_STORE_HELP)]  # noqa: UP045
Quiet = Annotated[
    bool, typer.Option("--quiet-if-running", help="Say nothing if an oomcast server listens there already.")
]


@app.command()
def serve(host: Host = None, port: Port = None, store: Store = None, quiet_if_running: Quiet = False) -> None:
    """Serve until Ctrl-C."""
    try:
        run_server(load(host=host, port=port, store=store), lambda line: print(line, flush=True))
    except PortInUse as error:
        if quiet_if_running and error.is_oomcast:
            return
        _fail(error)
    except OomcastError as error:
        _fail(error)


@app.command()
def stop(port: Port = None) -> None:
    """Stop the server that listens on the port."""
    try:
        settings = load(port=port)
        pid = stop_server(settings.places.state, settings.port)
    except OomcastError as error:
        _fail(error)
    else:
        print(f"oomcast: the server on port {settings.port} (process {pid}) has ended")


def _fail(error: OomcastError) -> None:
    typer.echo(f"oomcast: {error}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m oomcast_server")
