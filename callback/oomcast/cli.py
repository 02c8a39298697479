"""The `oomcast` command. A command's help is its docstring; what is the server's is handed to its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
from typing import Annotated, NoReturn

import typer

from oomcast import cli_keeping, cli_runs, console, local_server, settings
from oomcast._version import __version__
from oomcast.client import token_for_server
from oomcast.demo.scenarios import Scenario
from oomcast.errors import OomcastError, SettingsError
from oomcast.places import places, read_or_create_token

__all__ = ["app", "main"]

app = typer.Typer(
    name="oomcast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Live memory monitoring for Keras training.",
)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"oomcast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one.")
    ] = False,
) -> None:
    pass


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.", metavar="COMMAND...")],
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    project: Annotated[str | None, typer.Option(help="The project that the run is listed under.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word to find the run by; may be given again.")] = None,
) -> None:
    """Run any command and watch its memory: oomcast run -- python train.py"""
    from oomcast import outside

    values = settings.load(run_name=name, project=project, tags=tag or None)
    raise typer.Exit(outside.run(command, values))


@app.command()
def attach(
    pid: Annotated[int, typer.Argument(help="The process.", min=1)],
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    project: Annotated[str | None, typer.Option(help="The project that the run is listed under.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word to find the run by; may be given again.")] = None,
) -> None:
    """Watch the memory of a process that runs already, until it ends or Ctrl-C."""
    from oomcast import outside

    try:
        raise typer.Exit(outside.attach(pid, settings.load(run_name=name, project=project, tags=tag or None)))
    except OSError as error:
        _fail(f"process {pid} can't be watched: no agent could be started ({error})")


@app.command(context_settings=_PASS_ON)
def serve(context: typer.Context) -> None:
    """Start the server and its dashboard here (--host, --port, --store)."""
    _server_command("serve", context.args)


@app.command(context_settings=_PASS_ON)
def stop(context: typer.Context) -> None:
    """Stop the server that runs in the background on this machine."""
    _server_command("stop", [*_port_of_server(context.args), *context.args])


def _port_of_server(arguments: list[str]) -> list[str]:
    # The server that trainings here would use, unless another is named.
    parts = urllib.parse.urlsplit(_settings().server)
    named = any(argument.startswith(("--port", "--help")) for argument in arguments)
    return [] if named or parts.hostname not in settings.LOOPBACK or not parts.port else ["--port", str(parts.port)]


def _server_command(name: str, arguments: list[str]) -> NoReturn:
    # A program of its own: the callback side never imports the server.
    if not local_server.is_installed():
        _fail("the server is not installed: `pip install 'oomcast[server]'` brings it")
    command = [sys.executable, "-m", "oomcast_server", name, *arguments]
    if os.name == "posix":
        os.execv(sys.executable, command)  # noqa: S606  Ctrl-C is then the server's alone
    raise SystemExit(subprocess.call(command))


@app.command()
def link() -> None:
    """Print the dashboard's address; opening it signs this browser in."""
    values = _settings()
    typer.echo(console.link(values.server, token_for_server(values)))
    if line := console.ssh_line(values.server):
        typer.echo(f"from your own machine: {line}")


@app.command()
def token() -> None:
    """Print the token that agents and browsers show to the server on this machine."""
    typer.echo(_token(_settings()))


@app.command()
def sync() -> None:
    """Send to the server what offline runs, or runs whose server was away, have recorded."""
    from oomcast.agent.sync import sync as send  # the network's libraries, which no other command needs

    values = _settings()
    results = send(
        places(values.home).state, values.server, token_for_server(values), console.say, journal_max=values.journal_max
    )
    if not results:
        typer.echo("nothing to send: no journal is left here, or its training (or the agent's last seconds) still runs")
    for result in results:
        outcome = f"sent, {result.rows} rows" if result.delivered else "not sent, still in the journal"
        typer.echo(f"{result.run_name}: {outcome}")
    raise typer.Exit(0 if all(result.delivered for result in results) else 1)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False) -> None:
    """Try every probe and every way to the server on this machine, and say what works and why not."""
    from oomcast import doctor as doctors  # psutil, NVML: what no other command needs

    wrong: list[doctors.Finding] = []
    values = settings.load(on_bad_variable=lambda error: wrong.append(doctors.Finding("setting", False, str(error))))
    findings = [*doctors.examine(values), *wrong]
    if json:
        typer.echo(doctors.as_json(findings))
    else:
        for line in doctors.as_lines(findings):
            typer.echo(line)
    raise typer.Exit(0 if doctors.is_well(findings) else 1)


@app.command()
def demo(
    scenario: Annotated[Scenario, typer.Option(help="What the training does to its memory.")] = Scenario.HEALTHY,
    headroom: Annotated[
        str | None, typer.Option(help="What the training may use beyond its first batches, such as 400MiB.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="About how long it trains.", min=1)] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the dashboard.")] = True,
) -> None:
    """Train a real Keras model that behaves, leaks or spikes, and watch it in the dashboard."""
    from oomcast.demo import run_demo

    try:
        size = settings.parse_size(headroom) if headroom else None
    except ValueError as error:
        _fail(f"--headroom {headroom} can't be used: {error}")
    raise typer.Exit(run_demo(scenario=scenario.value, headroom=size, open_browser=browser, seconds=seconds))


cli_runs.add_to(app)
cli_keeping.add_to(app)


def _settings() -> settings.Settings:
    return settings.load()


def _token(values: settings.Settings) -> str:
    return values.token or read_or_create_token(places(values.home).config)


def _fail(text: str) -> NoReturn:
    typer.echo(f"oomcast: {text}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """The console script: errors of ours are one line, never a traceback."""
    try:
        app()
    except SettingsError as error:
        console.say(str(error))
        raise SystemExit(2) from None
    except OomcastError as error:
        console.say(str(error))
        raise SystemExit(1) from None
