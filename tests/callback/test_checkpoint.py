"""Saving with hardly any memory left, and going on from there: every value comes back, nothing is overwritten."""

from __future__ import annotations

import importlib.util
import json
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import run_script

np = pytest.importorskip("numpy")
from oomcast.checkpoint import Place, obstacle  # noqa: E402  needs numpy

BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    )
    for name in ("tensorflow", "jax", "torch")
]
slow = pytest.mark.slow
needs_keras = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras")

PREAMBLE = """
import hashlib, sys
from pathlib import Path
import numpy as np, keras
from oomcast.checkpoint import CheckpointError, Place, load_checkpoint, save_checkpoint
from oomcast.variables import groups

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(FOLDER)

def model(units=8, optimizer="adam", dtype=None):
    net = keras.Sequential([
        keras.layers.Input((16,)),
        keras.layers.Dense(units, dtype=dtype),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, dtype="float32"),
    ])
    if optimizer:
        net.compile(optimizer, "mse")
    return net

x, y = np.ones((96, 16), "float32"), np.ones((96, 1), "float32")

def sums(net):
    return {
        group: [hashlib.sha256(keras.ops.convert_to_numpy(v.value).tobytes()).hexdigest()[:16] for v in variables]
        for group, variables in groups(net).items()
    }
"""


def run(code: str, folder: Path, backend: str = "tensorflow") -> list[str]:
    """What a script prints."""
    script = f"FOLDER = {str(folder)!r}\n{PREAMBLE}{textwrap.dedent(code)}"
    result = run_script(script, folder / "home", KERAS_BACKEND=backend)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@slow
@needs_keras
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_seeds_and_optimizer_come_back_as_they_were_in_another_process(backend: str, tmp_path: Path) -> None:
    saved = run(
        """
        net = model()
        net.fit(x, y, epochs=2, verbose=0)
        print(save_checkpoint(net, folder, "brave otter", Place(1, 3)))
        print(sums(net))
        print(int(net.optimizer.iterations), len(net.optimizer.variables))
        net.fit(x, y, epochs=3, initial_epoch=2, shuffle=False, verbose=0)
        print(sums(net))
        """,
        tmp_path,
        backend,
    )
    loaded = run(
        f"""
        net = model()
        saved = load_checkpoint(net, {saved[0]!r})
        print(saved.path)
        print(sums(net))
        print(int(net.optimizer.iterations), len(net.optimizer.variables))
        net.fit(x, y, epochs=3, initial_epoch=2, shuffle=False, verbose=0)
        print(sums(net))
        print(saved.run, saved.epoch, saved.batches, saved.initial_epoch, file=sys.stderr)
        """,
        tmp_path,
        backend,
    )
    assert loaded == saved  # and training goes on to the same values, its dropout included
    assert saved[2].startswith("6 ")


@slow
@needs_keras
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_comes_back_to_the_bit(backend: str, tmp_path: Path) -> None:
    lines = run(
        """
        import zipfile
        for policy in ("bfloat16", "float16", "mixed_float16"):
            net = model(dtype=policy)
            net.fit(x, y, verbose=0)
            path = save_checkpoint(net, folder, policy, Place(0, None))
            other = model(dtype=policy)
            load_checkpoint(other, path)
            print(sums(other) == sums(net), {v.dtype for v in other.variables} == {v.dtype for v in net.variables})
        """,
        tmp_path,
        backend,
    )
    assert lines == ["True True"] * 3


@slow
@needs_keras
@pytest.mark.parametrize("backend", BACKENDS)
def test_saving_takes_no_copy_of_what_it_saves(backend: str, tmp_path: Path) -> None:
    lines = run(
        """
        def kib(name):
            return int(open("/proc/self/status").read().split(name + ":")[1].split()[0])

        net = keras.Sequential([keras.layers.Input((2000,)), keras.layers.Dense(8000), keras.layers.Dense(1)])
        net.compile("adam", "mse")
        net.fit(np.ones((8, 2000), "float32"), np.ones((8, 1), "float32"), verbose=0)
        save_checkpoint(model(), folder, "first", Place(0, 1))  # what is loaded and kept once
        open("/proc/self/clear_refs", "w").write("5")
        before = kib("VmRSS")
        path = save_checkpoint(net, folder, "large", Place(0, 1))
        print((kib("VmHWM") - before) >> 10, path.stat().st_size >> 20)
        """,
        tmp_path,
        backend,
    )
    peak_mib, size_mib = map(int, lines[0].split())
    assert size_mib > 180
    assert peak_mib <= 24


@slow
@needs_keras
def test_it_is_a_plain_npz(tmp_path: Path) -> None:
    path = Path(
        run(
            """
            net = model()
            net.fit(x, y, verbose=0)
            print(save_checkpoint(net, folder, "plain", Place(4, 2)))
            """,
            tmp_path,
        )[0]
    )
    arrays: Any
    with np.load(path) as arrays:
        assert arrays["weights/0"].shape == (16, 8)
        assert arrays["optimizer/0"] == 3
    with zipfile.ZipFile(path) as archive:
        contents = json.loads(archive.read("oomcast.json"))
    assert (contents["run"], contents["epoch"], contents["batches"], contents["initial_epoch"]) == ("plain", 4, 2, 4)
    assert contents["variables"]["weights"][0]["path"] == "sequential/dense/kernel"


@slow
@needs_keras
def test_names_say_where_it_was_and_none_is_overwritten(tmp_path: Path) -> None:
    lines = run(
        """
        net = model()
        places = [Place(2, 7), Place(2, 7), Place(2, None), Place(0, 0, rank=3)]
        for place in places:
            print(save_checkpoint(net, folder / "a" / "b", "my run/1: ü", place).name)
        print(sorted(path.name for path in (folder / "a" / "b").iterdir()))
        """,
        tmp_path,
    )
    stem = "my-run-1-ü-epoch"
    names = [f"{stem}3-batch7.npz", f"{stem}3-batch7-2.npz", f"{stem}3.npz", f"{stem}1-batch0-rank3.npz"]
    assert lines == [*names, str(sorted(names))]


@slow
@needs_keras
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    lines = run(
        """
        net = model()
        net.fit(x, y, verbose=0)
        path = save_checkpoint(net, folder, "x", Place(0, 3))
        torn = folder / "torn.npz"
        torn.write_bytes(path.read_bytes()[:-100])
        other = folder / "other.npz"
        np.savez(other, a=np.ones(3))
        cases = [
            (model(units=9), path), (model(optimizer="sgd"), path), (model(optimizer=None), path),
            (keras.Sequential([keras.layers.Dense(1)]), path), (model(), torn), (model(), other),
            (model(), folder / "none.npz"),
        ]
        for target, file in cases:
            before = target.built and sums(target)["weights"]
            try:
                load_checkpoint(target, file)
            except CheckpointError as error:
                assert not target.built or sums(target)["weights"] == before
                print(str(error).replace(str(folder), ""))
        """,
        tmp_path,
    )
    assert len(lines) == 7
    texts = [
        "has shape (16, 8), not (16, 9)",
        "variables of its optimizer, not",
        "the model has none: compile it first",
        "call it on a batch once",
        "/torn.npz can't be read",
        "/other.npz can't be read",
        "/none.npz can't be read",
    ]
    for line, text in zip(lines, texts, strict=True):
        assert text in line


@slow
@needs_keras
def test_a_model_that_has_not_trained_yet_is_saved_too(tmp_path: Path) -> None:
    lines = run(
        """
        for optimizer in ("adam", None):
            net = model(optimizer=optimizer)
            other = model(optimizer=optimizer)
            load_checkpoint(other, save_checkpoint(net, folder, "early", Place(0, 0)))
            print(sums(net) == sums(other))
        """,
        tmp_path,
    )
    assert lines == ["True", "True"]


@slow
@needs_keras
def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    lines = run(
        """
        import resource, signal
        net = model(units=100_000)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # stands in for a disk that is full
        try:
            save_checkpoint(net, folder / "full", "x", Place(0, 1))
        except OSError as error:
            print(error.errno, list((folder / "full").iterdir()))
        """,
        tmp_path,
    )
    assert lines == ["27 []"]


@pytest.mark.fast
def test_where_to_go_on() -> None:
    assert Place(3, 120).initial_epoch == 3  # an epoch that was begun is gone through again
    assert Place(3, None).initial_epoch == 4
    assert str(Place(3, 120)) == "epoch 4 after 120 batches"


@pytest.mark.fast
def test_a_folder_in_memory_or_behind_a_file_is_an_obstacle(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    memory = tmp_path / "in memory"
    memory.mkdir()
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {str(memory).replace(' ', chr(92) + '040')} tmpfs rw 0 0\n")
    assert obstacle(tmp_path / "not" / "yet", mounts) is None
    assert obstacle(memory / "deeper", mounts) == "it lies in memory (tmpfs)"
    assert "is no folder" in str(obstacle(mounts / "x", mounts))
