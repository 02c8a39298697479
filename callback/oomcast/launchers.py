"""Which rank a process is, of how many, and of which job: what its launcher left in the environment (pure).

Each launcher has its own names. The one nearest to the process is believed: a torchrun inside a Slurm step sets the
rank that counts, and Slurm's own number is then only that of the machine.

    TF_CONFIG    JSON with "cluster" and "task": tf.distribute's guide to TF_CONFIG
    torchrun     RANK, LOCAL_RANK, WORLD_SIZE, TORCHELASTIC_RUN_ID: torch.distributed.elastic; also Ray, PyTorchJob
    Horovod      HOROVOD_RANK, …: horovod/runner/gloo_run.py
    Open MPI     OMPI_COMM_WORLD_RANK, …; PMIX_NAMESPACE names the one mpirun
    MPICH        PMI_RANK, PMI_SIZE, MPI_LOCALRANKID: hydra; also Intel MPI
    Slurm        SLURM_PROCID, …: srun(1), "output environment variables"
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["LAUNCHER_VARIABLES", "JaxProcess", "Launch", "describe_launch"]

# fmt: off
LAUNCHER_VARIABLES = (
    "TF_CONFIG", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "RAY_JOB_ID", "HOROVOD_RANK", "HOROVOD_LOCAL_RANK",
    "HOROVOD_SIZE", "HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT", "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_RANK",
    "PMI_SIZE", "PMI_JOBID", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID",
    "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID",
    "SLURM_CLUSTER_NAME", "SLURM_RESTART_COUNT",
)
# fmt: on
"""Everything that is looked at."""

# Ranks and ports are small; what is larger is no rank.
_LARGEST = 1 << 31
# From here up a Slurm "step" is the batch script itself, or an interactive one: slurm.h, SLURM_INTERACTIVE_STEP.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104  recognised, not bound to


class Launch(NamedTuple):
    """One process's place among those that were started together."""

    rank: int | None = None  # from 0, over all machines
    local_rank: int | None = None  # from 0, on this machine
    world_size: int | None = None
    launcher: str | None = None  # for people: "slurm 4711", "torchrun"
    job: str | None = None  # the same text in every rank of one launch and in no other; None: none that can be trusted


class JaxProcess(NamedTuple):
    """What `jax.distributed.initialize` was told."""

    process_id: int
    num_processes: int
    coordinator: str | None = None  # host:port


def describe_launch(
    environ: Mapping[str, str], parent: str | None = None, jax_process: JaxProcess | None = None
) -> Launch:
    """The launch that these variables tell of; all None for a process that was started by hand.

    Args:
        environ: the process's environment. Whatever stands in it, nothing is raised.
        parent: a text that only children of the same parent share; it stands in for a job's id where a launcher that
            starts all ranks itself, on one machine, gives none.
        jax_process: JAX's own count of processes, where it has one.
    """
    readers: tuple[Callable[[], Launch | None], ...] = (
        lambda: _tf_config(environ, parent),
        lambda: _torch(environ, parent),
        lambda: _horovod(environ),
        lambda: _open_mpi(environ),
        lambda: _mpich(environ, parent),
        lambda: _slurm(environ),
        lambda: _jax(environ, jax_process, parent),
    )
    found = [launch for read in readers if (launch := read())]
    # One process of one is what leftovers look like, too: a launcher that knows of several wins.
    several = (launch for launch in found if (launch.world_size or 0) > 1)
    best = next(several, found[0] if found else Launch())
    return best if (best.world_size or 0) > 1 else best._replace(job=None)


def _tf_config(environ: Mapping[str, str], parent: str | None) -> Launch | None:
    config: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        config = json.loads(environ.get("TF_CONFIG", ""))
    cluster, task = (config.get(key) for key in ("cluster", "task")) if isinstance(config, dict) else (None, None)
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        return None
    members = list(_members(cluster))
    role, index = task.get("type"), _number(task.get("index", 0))
    if role == "evaluator" and index is not None and (role, index) not in members:
        members.append((role, index))  # it belongs to no cluster, and still to the training
    if (role, index) not in members or index is None:
        return None
    rank = members.index((str(role), index))
    addresses = [address for value in cluster.values() for address in _addresses(value)]
    text = json.dumps(sorted(addresses))
    local = parent if all(_host(address) in _LOCAL_HOSTS for address in addresses) else ""
    job = None if local is None else _job(environ, "TF_CONFIG", text, local)
    return Launch(rank, None, len(members), f"TF_CONFIG {role} {index}", job)


def _members(cluster: dict[Any, Any]) -> Iterator[tuple[str, int]]:
    # Chief first, as tf.distribute numbers them; parameter servers and evaluators are processes with memory, too.
    known = ("chief", "master", "worker", "ps", "evaluator")
    for role in known:
        yield from ((role, index) for index in range(len(_addresses(cluster.get(role)))))


def _addresses(value: Any) -> list[str]:
    return [str(address) for address in value] if isinstance(value, list) else []


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]") or address


def _torch(environ: Mapping[str, str], parent: str | None) -> Launch | None:
    rank, size = _read(environ, "RANK"), _read(environ, "WORLD_SIZE")
    if rank is None or size is None:
        return None
    run_id, ray = _text(environ, "TORCHELASTIC_RUN_ID"), _text(environ, "RAY_JOB_ID")
    place = [_text(environ, "MASTER_ADDR"), _text(environ, "MASTER_PORT")]
    launcher = "torchrun" if run_id or "TORCHELASTIC_RESTART_COUNT" in environ else "ray" if ray else None
    job: str | None = None
    # Of a worker group that was restarted the first life is a story of its own.
    life = [*place, _text(environ, "TORCHELASTIC_RESTART_COUNT")]
    if run_id and run_id != "none":
        job = _job(environ, "torchrun", run_id, *life)
        launcher = f"torchrun {run_id}"
    elif ray:
        job = _job(environ, "ray", ray, *life)
        launcher = f"ray {ray}"
    elif _read(environ, "LOCAL_WORLD_SIZE") == size or place[0] in _LOCAL_HOSTS:
        job = parent and _job(environ, "parent", parent, *life)
    elif all(place):
        job = _job(environ, "torch", *life)
    return Launch(rank, _read(environ, "LOCAL_RANK"), size, launcher or "RANK", job)


def _horovod(environ: Mapping[str, str]) -> Launch | None:
    rank, size = _read(environ, "HOROVOD_RANK"), _read(environ, "HOROVOD_SIZE")
    if rank is None or size is None:
        return None
    place = [_text(environ, f"HOROVOD_GLOO_RENDEZVOUS_{name}") for name in ("ADDR", "PORT")]
    job = _job(environ, "horovod", *place) if all(place) else None
    return Launch(rank, _read(environ, "HOROVOD_LOCAL_RANK"), size, "horovod", job)


def _open_mpi(environ: Mapping[str, str]) -> Launch | None:
    rank, size = _read(environ, "OMPI_COMM_WORLD_RANK"), _read(environ, "OMPI_COMM_WORLD_SIZE")
    if rank is None or size is None:
        return None
    name = _text(environ, "PMIX_NAMESPACE") or _text(environ, "OMPI_MCA_ess_base_jobid")
    job = _job(environ, "mpi", name) if name else None
    return Launch(rank, _read(environ, "OMPI_COMM_WORLD_LOCAL_RANK"), size, "mpirun", job)


def _mpich(environ: Mapping[str, str], parent: str | None) -> Launch | None:
    rank, size = _read(environ, "PMI_RANK"), _read(environ, "PMI_SIZE")
    if rank is None or size is None:
        return None
    job: str | None = None
    if name := _text(environ, "PMI_JOBID"):
        job = _job(environ, "pmi", name)
    elif _read(environ, "MPI_LOCALNRANKS") == size and parent:
        job = _job(environ, "pmi", parent)
    return Launch(rank, _read(environ, "MPI_LOCALRANKID"), size, "mpiexec", job)


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    name = _text(environ, "SLURM_JOB_ID") or _text(environ, "SLURM_JOBID")
    if not name:
        return None
    array = [_text(environ, f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK")]
    launcher = f"slurm {array[0]}_{array[1]}" if all(array) else f"slurm {name}"
    step = _read(environ, "SLURM_STEP_ID", _FIRST_SPECIAL_STEP)
    size = _read(environ, "SLURM_STEP_NUM_TASKS") or _read(environ, "SLURM_NTASKS")
    rank = _read(environ, "SLURM_PROCID")
    if step is None or size is None or rank is None:
        # The batch script, or a notebook in an allocation: SLURM_NTASKS is what was asked for, not what runs.
        return Launch(launcher=launcher)
    return Launch(rank, _read(environ, "SLURM_LOCALID"), size, launcher, _job(environ, "step", str(step)))


def _jax(environ: Mapping[str, str], process: JaxProcess | None, parent: str | None) -> Launch | None:
    if process is None:
        return None
    local = parent if _host(process.coordinator or "") in _LOCAL_HOSTS else ""
    job = _job(environ, "jax", process.coordinator, local) if process.coordinator and local is not None else None
    return Launch(process.process_id, None, process.num_processes, "jax", job)


def _job(environ: Mapping[str, str], *parts: str | None) -> str:
    """One text for a launch. A batch job's id goes in: names that people choose ("100") come again in the next job."""
    outer = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")
    text = json.dumps([*parts, *(_text(environ, name) for name in outer)])
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _text(environ: Mapping[str, str], name: str) -> str | None:
    return environ.get(name, "").strip()[:500] or None


def _read(environ: Mapping[str, str], name: str, below: int = _LARGEST) -> int | None:
    return _number(environ.get(name), below)


def _number(value: Any, below: int = _LARGEST) -> int | None:
    """A whole number from 0 up and below `below`, from text or JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip() if isinstance(value, str) else value
    if isinstance(text, str) and not (text.isascii() and text.isdigit() and len(text) < 20):
        return None
    return int(text) if 0 <= int(text) < below else None
