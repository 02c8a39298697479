"""`python -m tests.torture`: kill everything, again and again, and count. Exits with 1 if anything is lost."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

from tests.torture.report import Report, table
from tests.torture.scenarios import SCENARIOS
from tests.torture.world import Plan

_ISOLATED = "TORTURE_ISOLATED"


def main(arguments: list[str]) -> int:
    """Play the scenarios one after the other; the exit status."""
    options = _parse(arguments)
    _isolate(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    plan = Plan(options.n, options.seed, options.rate, options.trainings, options.partition_s, options.balancer)
    reports = []
    for name in options.scenario:
        begun = time.monotonic()
        _say(f"{name} …")
        reports.append(_play(name, plan))
        _say(f"{name}: {'good' if reports[-1].good else 'WRONG'}, {time.monotonic() - begun:.0f} s")
    print(json.dumps([report.as_json() for report in reports]) if options.json else table(reports))
    return 0 if all(report.good for report in reports) else 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--scenario", type=_names, default=list(SCENARIOS), help=f"of {','.join(SCENARIOS)}")
    parser.add_argument("-n", type=int, default=Plan.n, help="kills, cuts or full disks of each scenario")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="what chance follows")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="batches per second in total")
    parser.add_argument("--trainings", type=int, default=Plan.trainings, help="how many share that rate")
    parser.add_argument("--partition-s", type=float, default=Plan.partition_s, help="length of the first cut")
    parser.add_argument("--balancer", choices=("nginx", "proxy"), default=Plan.balancer, help="in front of replicas")
    parser.add_argument("--json", action="store_true", help="figures for a program")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return names


def _isolate(arguments: list[str]) -> None:
    """Go on in a mount namespace with a /dev/shm of our own, where that can be had.

    Agents look after the sessions that others of this user left in shared memory; those of other programs that run here
    are not to be ours, nor ours theirs. What is mounted in it goes when its last process does.
    """
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.environ.get(_ISOLATED) or os.geteuid() != 0:
        return
    try:
        possible = subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return
    if possible:
        mount = 'mount -t tmpfs -o mode=1777 tmpfs /dev/shm; exec "$@"'
        here = [sys.executable, "-m", "tests.torture", *arguments]
        os.environ[_ISOLATED] = "1"
        os.execvp(unshare[0], [*unshare, "sh", "-c", mount, "sh", *here])


def _play(name: str, plan: Plan) -> Report:
    try:
        return SCENARIOS[name](plan)
    except Exception as error:
        report = Report(name, plan.seed)
        report.faults.append(f"the harness failed: {type(error).__name__}: {error}")
        return report


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    print(f"torture: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
