"""Rank, size and job of a process from its launcher's variables, and which processes are one run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomcast import identity
from oomcast.launchers import LAUNCHER_VARIABLES, JaxProcess, Launch, describe_launch
from oomcast.names import hashed_id, name_of, random_id
from oomcast.settings import load

pytestmark = pytest.mark.fast

CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
TORCH = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "abc", "MASTER_PORT": "41000"}
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "4",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-host-77@1",
}
HOROVOD = {
    "HOROVOD_RANK": "2",
    "HOROVOD_LOCAL_RANK": "0",
    "HOROVOD_SIZE": "4",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "39123",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


def tf_config(role: str, index: object, cluster: Mapping[str, object] = CLUSTER) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}


@pytest.mark.parametrize(
    ("environ", "rank", "local", "size", "launcher"),
    [
        ({}, None, None, None, None),
        (tf_config("chief", 0), 0, None, 4, "TF_CONFIG chief 0"),
        (tf_config("worker", 1), 2, None, 4, "TF_CONFIG worker 1"),
        (tf_config("worker", "1"), 2, None, 4, "TF_CONFIG worker 1"),
        (tf_config("ps", 0), 3, None, 4, "TF_CONFIG ps 0"),
        (tf_config("evaluator", 0), 4, None, 5, "TF_CONFIG evaluator 0"),
        (TORCH, 1, 1, 2, "torchrun abc"),
        ({"RANK": "0", "WORLD_SIZE": "2", "RAY_JOB_ID": "0100", "MASTER_PORT": "5"}, 0, None, 2, "ray 0100"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 0, None, 2, "RANK"),
        (HOROVOD, 2, 0, 4, "horovod"),
        (OPEN_MPI, 1, 0, 2, "mpirun"),
        (MPICH, 1, 1, 2, "mpiexec"),
        (SLURM, 3, 1, 4, "slurm 4711"),
        (SLURM | {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "11"}, 3, 1, 4, "slurm 4700_11"),
        (SLURM | TORCH, 1, 1, 2, "torchrun abc"),
        (SLURM | OPEN_MPI, 1, 0, 2, "mpirun"),
    ],
)
def test_each_launcher_is_read_in_its_own_words(
    environ: dict[str, str], rank: int | None, local: int | None, size: int | None, launcher: str | None
) -> None:
    assert describe_launch(environ)[:4] == (rank, local, size, launcher)


def test_jax_tells_its_own_index_where_nobody_else_does() -> None:
    jax = JaxProcess(1, 4, "10.0.0.1:1234")
    assert describe_launch({}, jax_process=jax)[:4] == (1, None, 4, "jax")
    assert describe_launch({}, jax_process=jax).job == describe_launch({}, jax_process=jax._replace(process_id=2)).job
    assert describe_launch(TORCH, jax_process=jax).launcher == "torchrun abc"


def same_job(one: dict[str, str], other: dict[str, str]) -> bool:
    jobs = describe_launch(one, "parent").job, describe_launch(other, "parent").job
    return jobs[0] is not None and jobs[0] == jobs[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tf_config("chief", 0), tf_config("worker", 1)),
        (tf_config("chief", 0), tf_config("evaluator", 0)),
        (TORCH, TORCH | {"RANK": "0", "LOCAL_RANK": "0"}),
        (TORCH | {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"},) * 2,
        (HOROVOD, HOROVOD | {"HOROVOD_RANK": "0"}),
        (OPEN_MPI, OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0"}),
        (MPICH, MPICH | {"PMI_RANK": "0"}),
        (SLURM, SLURM | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}),
        (SLURM | TORCH, SLURM | TORCH | {"RANK": "0", "SLURM_PROCID": "1", "SLURM_STEP_ID": "1"}),
    ],
)
def test_the_ranks_of_one_launch_are_one_job(one: dict[str, str], other: dict[str, str]) -> None:
    assert same_job(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tf_config("chief", 0), tf_config("chief", 0, CLUSTER | {"worker": ["b:2"]})),
        (TORCH, TORCH | {"TORCHELASTIC_RUN_ID": "abd"}),
        (TORCH, TORCH | {"MASTER_PORT": "41001"}),
        (TORCH, TORCH | {"TORCHELASTIC_RESTART_COUNT": "1"}),
        (TORCH | {"SLURM_JOB_ID": "1"}, TORCH | {"SLURM_JOB_ID": "2"}),
        (HOROVOD, HOROVOD | {"HOROVOD_GLOO_RENDEZVOUS_PORT": "39124"}),
        (OPEN_MPI, OPEN_MPI | {"PMIX_NAMESPACE": "prterun-host-78@1"}),
        (SLURM, SLURM | {"SLURM_STEP_ID": "1"}),
        (SLURM, SLURM | {"SLURM_JOB_ID": "4712"}),
        (SLURM, SLURM | {"SLURM_RESTART_COUNT": "1"}),
        (SLURM | {"SLURM_ARRAY_TASK_ID": "1"}, SLURM | {"SLURM_ARRAY_TASK_ID": "2"}),
    ],
)
def test_another_launch_is_another_job(one: dict[str, str], other: dict[str, str]) -> None:
    assert describe_launch(one).job
    assert not same_job(one, other)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        TORCH | {"WORLD_SIZE": "1", "RANK": "0"},
        {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"},  # a batch script
        SLURM | {"SLURM_STEP_ID": str(0xFFFFFFFB)},  # the same, by its own step
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # a notebook: `srun --pty`
        tf_config("worker", 0, {"worker": ["localhost:1"]}),
    ],
)
def test_a_process_that_is_alone_joins_nobody(environ: dict[str, str]) -> None:
    assert describe_launch(environ, "parent").job is None


def test_a_batch_script_has_no_rank_though_its_allocation_has_many() -> None:
    batch = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert describe_launch(batch) == Launch(launcher="slurm 4711")


def test_on_one_machine_the_parent_stands_in_for_a_jobs_id() -> None:
    local = tf_config("worker", 0, {"worker": ["localhost:1", "localhost:2"]})
    unnamed = TORCH | {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}
    for environ in (local, unnamed, MPICH):
        first, again = (describe_launch(environ, parent).job for parent in ("a", "b"))
        assert first
        assert first != again
        assert describe_launch(environ).job is None


words = st.one_of(
    st.text(max_size=30), st.sampled_from(["-1", "0", "1", "2", "9" * 400, "1.5", "none", "[]", "null", "\ud800", "¹"])
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cluster", "task", "type"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(LAUNCHER_VARIABLES), words), st.none() | words)
def test_garbage_is_read_as_far_as_it_makes_sense(environ: dict[str, str], parent: str | None) -> None:
    launch = describe_launch(environ, parent)
    assert all(number is None or 0 <= number < 1 << 31 for number in launch[:3])


@given(st.dictionaries(st.sampled_from(["cluster", "task"]), anything), st.sampled_from(["worker", "chief", None, 3]))
def test_a_garbled_tf_config_is_no_tf_config(config: dict[str, object], role: object) -> None:
    describe_launch({"TF_CONFIG": json.dumps(config)}, "parent")
    garbled = {"cluster": config.get("cluster"), "task": {"type": role, "index": 0}}
    describe_launch({"TF_CONFIG": json.dumps(garbled)}, "parent")


def test_a_given_id_is_the_runs_id_where_it_can_be_and_its_hash_otherwise() -> None:
    def run_of(text: str) -> tuple[str, str]:
        return identity.run_identity(load({"OOMCAST_RUN_ID": text}), Launch())

    assert run_of("abcdefgh12") == ("abcdefgh12", name_of("abcdefgh12"))
    for text in ("My run, take 2", "short", "x" * 41, "ünïcode"):
        run_id, name = run_of(text)
        assert re.fullmatch("[a-z0-9]{8,40}", run_id)
        assert (run_id, name) == run_of(text) == (run_id, name_of(run_id))


def test_ranks_of_a_job_have_one_run_and_its_name_and_other_projects_another() -> None:
    ranks = [describe_launch(TORCH | {"RANK": str(rank), "MASTER_PORT": "1"}) for rank in (0, 1)]
    # Each rank is a process of its own; here their counts of runs are one, so the second asks with another project.
    first = identity.run_identity(load({}), ranks[0])
    assert ranks[0].job == ranks[1].job
    assert first[1] == name_of(first[0])
    assert identity.run_identity(load({}, project="other"), ranks[1])[0] != first[0]


def test_the_second_run_within_a_process_is_another_one() -> None:
    launch = describe_launch(TORCH | {"MASTER_PORT": "2"})
    assert identity.run_identity(load({}), launch)[0] != identity.run_identity(load({}), launch)[0]


def test_a_process_of_its_own_has_a_run_of_its_own() -> None:
    assert identity.run_identity(load({}), Launch())[0] != identity.run_identity(load({}), Launch())[0]
    assert identity.run_identity(load({}, run_name="mine"), Launch())[1] == "mine"


def test_names_and_hashes_are_the_same_everywhere() -> None:
    assert hashed_id("a", "b") == hashed_id("a", "b") != hashed_id("ab")
    assert len({name_of(random_id()) for _ in range(50)}) > 40
    assert all(re.fullmatch(r"[a-z]+-[a-z]+-[0-9]{1,2}", name_of(random_id())) for _ in range(50))
