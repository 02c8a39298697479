"""What to do about an end: only what the evidence speaks for (pure)."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from oomcast.agent.allocation import Memory, exhausted
from oomcast.agent.evidence import Evidence
from oomcast.agent.wording import process, size
from oomcast.sample import Phase

__all__ = ["advise"]

_MOST = 3  # sentences that somebody reads
_FIRST_BATCHES = 20
# So much of the last minute with everything waiting for memory is thrashing.
_THRASHING = 0.25
_SHM_FULL = 0.02
_LARGE = 0.3

_SENDERS = (
    "Something sent it SIGKILL: a scheduler or container at its time limit or its end, systemd-oomd or earlyoom "
    "(see `journalctl`), or a person."
)
_EVALUATIONS = {
    Phase.VALIDATION: "validation: a smaller `validation_batch_size` makes it cheaper",
    Phase.TEST: "`evaluate`: a smaller `batch_size` there makes it cheaper",
    Phase.PREDICT: "`predict`, which keeps all its outputs: a smaller `batch_size`, or `predict_on_batch` part by part",
}


_IN_GENERAL = (
    'A smaller batch, or a higher limit, leaves more room; `on_critical="checkpoint_and_stop"` saves the model before '
    "the next kill."
)


def advise(evidence: Evidence, *, ran_out: bool, killed_unknown: bool) -> str | None:
    """One to three sentences; None where nothing is known that would help.

    Args:
        evidence: of the end.
        ran_out: memory is what ended it.
        killed_unknown: SIGKILL did, and nobody knows whose.
    """
    found = list(_of_children(evidence))
    if ran_out:
        found += list(_of_memory(evidence)) or ([_IN_GENERAL] if not found else [])
    if killed_unknown:
        found += _of_kill(evidence)
    found += _of_signal(evidence)
    if evidence.hung_s and not found:
        found.append("`py-spy dump --pid PID` shows where a training that hangs is waiting.")
    return " ".join(found[:_MOST]) or None


def _of_children(evidence: Evidence) -> Iterator[str]:
    if evidence.lost_children:
        yield (
            "A data-loading worker holds its own copy of what it prepares: use fewer workers (`workers`, "
            "`num_workers`) or a shorter queue (`max_queue_size`, `prefetch`)."
        )


def _of_memory(evidence: Evidence) -> Iterator[str]:
    memory = exhausted(*evidence.exception, gpus=evidence.gpus) if evidence.exception else None
    if memory is Memory.SHARED:
        yield from _of_shared_memory(evidence)
        return
    if memory is Memory.GPU:
        yield (
            'A smaller batch, or `keras.mixed_precision.set_global_policy("mixed_float16")`, needs less of the GPU\'s '
            "memory."
        )
        return
    yield from _of_moment(evidence)
    yield from _of_others(evidence)
    yield from _of_thrashing(evidence)


def _of_moment(evidence: Evidence) -> Iterator[str]:
    report = evidence.report
    grew = report.growth if report.growth and report.growth.steady else None
    if report.at_epoch_end:
        yield (
            "It ended between two epochs, where checkpoints are saved: saving needs the weights once more, so save "
            "them alone (`save_weights_only=True`) or leave more room."
        )
    elif report.phase in _EVALUATIONS:
        yield f"It ran out in {_EVALUATIONS[report.phase]}."
    if grew:
        yield (
            f"Memory grew by {size(grew.bytes_per_batch)} per batch to the end: something is kept of each batch, such "
            "as tensors in a list (keep `float(loss)` instead), a cache, or graphs that are traced anew."
        )
    elif report.phase is Phase.TRAIN and report.batches < _FIRST_BATCHES and not report.at_epoch_end:
        done = f"{report.batches} batch{'' if report.batches == 1 else 'es'}"
        yield f"It ran out after {done}: what one batch needs doesn't fit; try a smaller batch size or mixed precision."


def _of_others(evidence: Evidence) -> Iterator[str]:
    own = next((state.rss_bytes for state in evidence.processes if state.role == "training"), None)
    biggest = max(evidence.processes, key=lambda state: state.rss_bytes or 0, default=None)
    limit = evidence.killing_limit
    # A training that grew fast was smaller at the last look than at its end.
    large = _LARGE * limit.limit_bytes if limit else 0
    if biggest and own and biggest.role == "other" and (biggest.rss_bytes or 0) > max(own, large):
        yield f"Under the same limit another process holds more than the training: {process(biggest)}."
    elif biggest and own and biggest.role == "child" and not evidence.lost_children and _children(evidence) > own:
        yield "Its children hold more than the training itself: use fewer data-loading workers or a shorter queue."


def _children(evidence: Evidence) -> int:
    return sum(state.rss_bytes or 0 for state in evidence.processes if state.role == "child")


def _of_thrashing(evidence: Evidence) -> Iterator[str]:
    stalled = evidence.report.stalled_share
    if stalled is not None and stalled >= _THRASHING:
        yield f"For {100 * stalled:.0f} % of its last minute everything waited for memory that was being paged in."


def _of_kill(evidence: Evidence) -> Iterator[str]:
    if evidence.launcher and evidence.launcher.startswith("slurm "):
        job = evidence.launcher.removeprefix("slurm ")
        yield f"SLURM kills a job at its time or memory limit: `sacct -j {job} --format=State,Elapsed,MaxRSS` tells."
    else:
        yield _SENDERS
    yield from _of_thrashing(evidence)


def _of_signal(evidence: Evidence) -> Iterator[str]:
    ended = evidence.status.signal if evidence.status else None
    if ended is not None and ended == getattr(signal, "SIGBUS", None):
        yield from _of_shared_memory(evidence)


def _of_shared_memory(evidence: Evidence) -> Iterator[str]:
    free, total = evidence.shm_free_bytes, evidence.shm_total_bytes
    if free is not None and total and free < _SHM_FULL * total:
        yield (
            f"Shared memory (/dev/shm) was full, {size(free)} of {size(total)} free: give a container more "
            "(`--shm-size`), or use fewer workers."
        )
