"""What is done when memory gets critical: in `fit` on each backend, in validation, in a loop of one's own."""

from __future__ import annotations

import importlib.util
import os
import stat
import textwrap
from pathlib import Path
from typing import Any

import pytest

from oomcast.ballast import Ballast, give_back
from oomcast.errors import SettingsError
from oomcast.sample import EventKind
from oomcast.settings import load
from tests.support import Rows, batches, events, recorded, run_script

slow = pytest.mark.slow
needs_tensorflow = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    )
    for name in ("tensorflow", "jax", "torch")
]

# The agent's word comes when the script says so: in another thread, as it does from the agent, while a batch is under
# way in the thread that trains.
WORDS = """
import threading
from oomcast.assessment import Assessment, State

MIB = 1 << 20
critical = Assessment(state=State.CRITICAL, wall_ns=1, limit_kind="cgroup /job", limit_bytes=2048 * MIB,
                      used_bytes=2000 * MIB, spike_bytes=8 * MIB, headroom_bytes=40 * MIB, epoch=0, batch=3)
steady = Assessment(state=State.STEADY, wall_ns=2)

def tell(run, assessment):
    thread = threading.Thread(target=run._hear, args=(assessment,))
    thread.start()
    thread.join()
"""

KERAS = """
import sys
import numpy as np, keras
import oomcast
from oomcast import MemoryMonitor
from oomcast.checkpoint import load_checkpoint

def model(**compile):
    net = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    net.compile("adam", "mse", **compile)
    return net

x, y = np.ones((100, 8), "float32"), np.ones((100, 1), "float32")
quiet = {"verbose": 0, "batch_size": 10}

class Teller(keras.callbacks.Callback):
    async_safe = True  # as MemoryMonitor: on JAX and torch, ends are then told in other threads
    def __init__(self, monitor, at, phase="train", end="begin"):
        super().__init__()
        self.monitor, self.at, self.seen = monitor, list(at), []
        setattr(self, f"on_{phase}_batch_{end}", self.tell)
    def on_train_batch_begin(self, batch, logs=None):
        pass
    def tell(self, batch, logs=None):
        self.seen.append(batch)
        if self.at and self.at[0] == len(self.seen) - 1:
            self.at.pop(0)
            tell(self.monitor, critical)
"""


def fit(code: str, home: Path, backend: str = "tensorflow") -> tuple[list[str], list[str]]:
    """What a script prints, and what oomcast says of memory meanwhile."""
    script = WORDS + KERAS + textwrap.dedent(code)
    folder = {"OOMCAST_CHECKPOINT_DIR": str(home.parent / "saved")}
    result = run_script(script, home, timeout=150, OOMCAST_MODE="offline", KERAS_BACKEND=backend, **folder)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("oomcast:") and "recording" not in line]
    return result.stdout.splitlines(), said


def actions(rows: Rows) -> list[str]:
    return [str(event.detail["action"]) for event in events(rows, EventKind.ACTION)]


@slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_saves_and_stops_at_the_next_boundary_and_training_goes_on_from_there(backend: str, home: Path) -> None:
    printed, said = fit(
        """
        monitor = MemoryMonitor(run_name="saved", on_critical="checkpoint_and_stop", ballast="1MiB")
        net, teller = model(), Teller(monitor, [13])
        hot = []
        class Snapshots(keras.callbacks.Callback):  # what the weights were after each batch
            async_safe = True
            def on_train_batch_begin(self, batch, logs=None):
                hot.append((batch, float(np.sum(np.abs(self.model.get_weights()[0])))))
        history = net.fit(x, y, epochs=5, callbacks=[teller, monitor, Snapshots()], **quiet)
        print(len(history.epoch), teller.seen[-1], net.stop_training)
        print(int(net.optimizer.iterations))
        other = model()
        from pathlib import Path
        (path,) = Path(monitor._settings.checkpoint_dir).iterdir()
        saved = load_checkpoint(other, path)
        print(path.name, saved.epoch, saved.batches, saved.initial_epoch, int(other.optimizer.iterations))
        same = all(np.array_equal(a, b) for a, b in zip(other.get_weights(), net.get_weights()))
        print(same)
        if not same:
            print(float(np.sum(np.abs(other.get_weights()[0]))) == hot[int(other.optimizer.iterations)][1])
        other.fit(x, y, epochs=2, initial_epoch=saved.initial_epoch, **quiet)
        print(int(other.optimizer.iterations))
        """,
        home,
        backend,
    )
    if backend == "tensorflow":  # at the end of the batch, and at once
        assert printed == ["2 3 True", "14", "saved-epoch2-batch4.npz 1 4 1 14", "True", "24"]
    else:  # before the next batch; Keras stops only after it
        assert printed == ["2 3 True", "14", "saved-epoch2-batch3.npz 1 3 1 13", "False", "True", "23"]
    (line,) = said
    assert "memory is nearly out at epoch 1, batch 4 of the run" in line
    assert "(1.95 GiB of 2.00 GiB in use, limit: cgroup /job; a batch needs up to 8 MiB more; 40 MiB left)" in line
    assert "fit(initial_epoch=1)" in line
    rows = recorded(home, "saved")
    (event,) = events(rows, EventKind.ACTION)
    assert event.detail["action"] == "checkpoint_and_stop"
    assert str(event.detail["path"]).endswith(printed[2].split()[0])
    assert isinstance(event.detail["took_ms"], int)
    assert [row.step for row in batches(rows)] == [*range(10), *range(4)]  # no batch's sample is lost by it


@slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_callback_in_the_list_makes_no_difference_to_what_is_saved(backend: str, home: Path) -> None:
    printed, _ = fit(
        """
        monitor = MemoryMonitor(run_name="plain", on_critical="checkpoint_and_stop", ballast=0)
        class Plain(keras.callbacks.Callback):  # ends are then told in the thread that trains, on every backend
            def on_train_batch_end(self, batch, logs=None):
                if batch == 3:
                    tell(monitor, critical)
        net = model(steps_per_execution=2)
        net.fit(x, y, epochs=5, callbacks=[Plain(), monitor], **quiet)
        other = model()
        from pathlib import Path
        (path,) = Path(monitor._settings.checkpoint_dir).iterdir()
        load_checkpoint(other, path)
        print(path.name, int(other.optimizer.iterations), int(net.optimizer.iterations))
        print(all(np.array_equal(a, b) for a, b in zip(other.get_weights(), net.get_weights())))
        """,
        home,
        backend,
    )
    assert printed == ["plain-epoch1-batch4.npz 4 4", "True"]


@slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_in_validation_it_saves_at_once_and_stops_after_the_whole_of_it(backend: str, home: Path) -> None:
    printed, said = fit(
        """
        monitor = MemoryMonitor(run_name="val", on_critical="checkpoint_and_stop", ballast=0)
        net, teller = model(), Teller(monitor, [2], phase="test")
        history = net.fit(x, y, epochs=5, validation_data=(x, y), callbacks=[teller, monitor], **quiet)
        print(len(history.epoch), teller.seen, len(history.history["val_loss"]))
        from pathlib import Path
        (path,) = Path(monitor._settings.checkpoint_dir).iterdir()
        other = model()
        saved = load_checkpoint(other, path)
        print(path.name, saved.initial_epoch)
        print(all(np.array_equal(a, b) for a, b in zip(other.get_weights(), net.get_weights())))
        # Of the whole validation set, in the same batches: to the bit.
        print(other.evaluate(x, y, **quiet) == history.history["val_loss"][-1])
        """,
        home,
        backend,
    )
    assert printed == ["1 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] 1", "val-epoch1.npz 1", "True", "True"]
    assert len(said) == 1


@slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_stopping_saves_nothing_and_each_fit_is_stopped_while_it_lasts(backend: str, home: Path) -> None:
    printed, said = fit(
        """
        monitor = MemoryMonitor(run_name="stop", on_critical="stop")
        net, teller = model(), Teller(monitor, [3])
        for _ in range(2):
            teller.seen, before = [], int(net.optimizer.iterations)
            net.fit(x, y, epochs=5, callbacks=[teller, monitor], **quiet)
            print(teller.seen)
        tell(monitor, steady)
        teller.seen = []
        net.fit(x, y, epochs=1, callbacks=[teller, monitor], **quiet)
        print(len(teller.seen))
        from pathlib import Path
        print(Path(monitor._settings.checkpoint_dir).exists())
        """,
        home,
        backend,
    )
    assert printed == ["[0, 1, 2, 3]", "[0]", "10", "False"]
    assert len(said) == 2
    assert actions(recorded(home, "stop")) == ["stop", "stop"]


@slow
@needs_tensorflow
def test_a_fit_is_stopped_once_however_often_it_gets_critical_before_its_end(home: Path) -> None:
    printed, said = fit(
        """
        monitor = MemoryMonitor(run_name="once", on_critical="checkpoint_and_stop", ballast=0)
        class Again(keras.callbacks.Callback):  # saving has freed something, the validation takes it again
            def on_test_batch_begin(self, batch, logs=None):
                tell(monitor, steady)
                tell(monitor, critical)
        data = {"validation_data": (x, y), "callbacks": [Teller(monitor, [3]), Again(), monitor]}
        model().fit(x, y, epochs=5, **data, **quiet)
        from pathlib import Path
        print([path.name for path in Path(monitor._settings.checkpoint_dir).iterdir()])
        """,
        home,
    )
    assert printed == ["['once-epoch1-batch4.npz']"]
    assert len(said) == 1


@slow
@needs_tensorflow
def test_a_warning_is_said_once_per_episode_and_changes_no_hook(home: Path) -> None:
    printed, said = fit(
        """
        monitor = MemoryMonitor(run_name="warn")
        class Talk(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                hooks = monitor.on_train_batch_begin, monitor.on_train_batch_end
                for word in {2: [critical, critical], 4: [steady], 6: [critical]}.get(batch, []):
                    tell(monitor, word)
                assert hooks == (monitor.on_train_batch_begin, monitor.on_train_batch_end)
        history = model().fit(x, y, epochs=2, callbacks=[Talk(), monitor], **quiet)
        print(len(history.epoch))
        """,
        home,
    )
    assert printed == ["2"]
    assert len(said) == 3  # at batches 2 and 6 of the first epoch, and 6 of the second, which begins critical
    assert 'on_critical="checkpoint_and_stop" would save the model' in said[0]
    assert actions(recorded(home, "warn")) == []


@slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_is_called_once_in_the_thread_that_trains_and_may_read_the_model(backend: str, home: Path) -> None:
    printed, said = fit(
        """
        calls = []
        def act(assessment):
            calls.append((assessment is critical, threading.current_thread() is threading.main_thread(),
                          len(net.get_weights())))
        monitor = MemoryMonitor(run_name="call", on_critical=act)
        net = model()
        net.fit(x, y, epochs=2, callbacks=[Teller(monitor, [3, 5]), monitor], **quiet)
        print(calls, int(net.optimizer.iterations))
        hot = monitor.on_train_batch_end
        print(hot == monitor._armed_end)
        """,
        home,
        backend,
    )
    assert printed == ["[(True, True, 4)] 20", "False"]
    assert said == []
    assert actions(recorded(home, "call")) == ["call"]


@slow
@needs_tensorflow
def test_what_a_function_raises_is_told_once_and_training_goes_on(home: Path) -> None:
    printed, said = fit(
        """
        def act(assessment):
            raise ValueError("no\\nway")
        monitor = MemoryMonitor(run_name="raises", on_critical=act)
        net = model()
        net.fit(x, y, epochs=2, callbacks=[Teller(monitor, [3]), monitor], **quiet)
        print(int(net.optimizer.iterations))
        """,
        home,
    )
    assert printed == ["20"]
    assert said == ["oomcast: on_critical raised ValueError: no way; training goes on"]


@slow
@needs_tensorflow
def test_where_nothing_can_be_saved_it_says_so_early_and_stops_all_the_same(home: Path) -> None:
    printed, said = fit(
        """
        monitor = MemoryMonitor(run_name="nowhere", on_critical="checkpoint_and_stop", checkpoint_dir="/proc/none")
        teller = Teller(monitor, [3])
        model().fit(x, y, epochs=5, callbacks=[teller, monitor], **quiet)
        print(teller.seen)
        """,
        home,
    )
    assert printed == ["[0, 1, 2, 3]"]
    assert "could not save to /proc/none (FileNotFoundError" in said[-1]
    assert "stopped at epoch 1 after 4 batches" in said[-1]


@slow
@needs_tensorflow
def test_one_rank_of_several_saves_for_itself_once_and_none_is_stopped(home: Path) -> None:
    printed, said = fit(
        """
        import os
        os.environ |= {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
        monitor = MemoryMonitor(run_name="ranks", on_critical="checkpoint_and_stop", ballast=0)
        class Talk(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                tell(monitor, critical if batch % 4 == 0 else steady)
        net = model()
        net.fit(x, y, epochs=2, callbacks=[Talk(), monitor], **quiet)
        from pathlib import Path
        print(int(net.optimizer.iterations), [p.name for p in Path(monitor._settings.checkpoint_dir).iterdir()])
        """,
        home,
    )
    assert printed == ["20 ['ranks-epoch1-batch1-rank1.npz']"]
    assert "rank 1 of 4: saved" in said[0]
    assert "goes on, since the others would wait for one that stops" in said[0]


@slow
@needs_tensorflow
def test_a_fit_inside_of_a_fit_is_stopped_and_the_outer_one_too_each_with_its_own_weights(home: Path) -> None:
    printed, _ = fit(
        """
        monitor = MemoryMonitor(run_name="nested", on_critical="checkpoint_and_stop", ballast=0)
        outer, inner, seen = model(), model(), []
        class Inside(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 1:
                    teller = Teller(monitor, [2])
                    inner.fit(x, y, epochs=3, callbacks=[teller, monitor], **quiet)
                    seen.append(teller.seen)
        outer.fit(x, y, epochs=3, callbacks=[Inside(), monitor], **quiet)
        print(seen, int(outer.optimizer.iterations))
        from pathlib import Path
        for path in sorted(Path(monitor._settings.checkpoint_dir).iterdir()):
            other = model()
            load_checkpoint(other, path)
            print(path.name, int(other.optimizer.iterations))
        """,
        home,
    )
    assert printed == ["[[0, 1, 2]] 2", "nested-epoch1-batch2.npz 2", "nested-epoch1-batch3.npz 3"]


@slow
@needs_tensorflow
def test_words_that_come_at_any_moment_lose_no_batch_and_are_acted_on(home: Path) -> None:
    printed, _ = fit(
        """
        import random, time
        calls = []
        monitor = MemoryMonitor(run_name="storm", on_critical=lambda assessment: calls.append(1))
        over = threading.Event()
        def storm():
            while not over.is_set():
                monitor._hear(random.choice([critical, steady]))
                time.sleep(random.random() / 2000)
        thread = threading.Thread(target=storm)
        net = model()
        net.fit(x, y, epochs=1, callbacks=[monitor], **quiet)
        thread.start()
        net.fit(x, y, epochs=30, validation_data=(x[:20], y[:20]), callbacks=[monitor], **quiet)
        over.set(); thread.join()
        tell(monitor, steady)
        net.fit(x, y, epochs=1, callbacks=[monitor], **quiet)
        print(len(calls) > 5, monitor.on_train_batch_end == monitor._armed_end)
        """,
        home,
    )
    assert printed == ["True False"]
    rows = batches(recorded(home, "storm"))
    assert len(rows) == 10 + 30 * 12 + 10
    assert [row.step for row in rows] == [*range(10), *([*range(10), 0, 1] * 30), *range(10)]


@slow
@needs_tensorflow
def test_it_works_from_the_environment_and_in_copies(home: Path) -> None:
    printed, said = fit(
        """
        import copy, os, pickle
        os.environ["OOMCAST_ON_CRITICAL"] = "stop"
        first = MemoryMonitor(run_name="copies")
        tellers = []
        for monitor in (first, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
            tellers.append(Teller(monitor, [1]))
            model().fit(x, y, callbacks=[tellers[-1], monitor], **quiet)
        print([teller.seen for teller in tellers])
        """,
        home,
    )
    assert printed == ["[[0, 1], [0, 1], [0, 1]]"]
    assert len(said) == 3


def loop(code: str, home: Path) -> tuple[list[str], list[str]]:
    """The same of a script that watches a loop of its own."""
    script = WORDS + "from oomcast import watch\n" + textwrap.dedent(code)
    result = run_script(script, home, OOMCAST_MODE="offline")
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("oomcast:") and "recording" not in line]
    return result.stdout.splitlines(), said


@pytest.mark.fast
@pytest.mark.parametrize("choice", ["stop", "checkpoint_and_stop"])
def test_a_loop_of_ones_own_is_asked_to_stop(choice: str, home: Path) -> None:
    printed, said = loop(
        f"""
        import sys
        with watch(run_name="asked", on_critical={choice!r}, ballast="1MiB") as run:
            for batch in range(10):
                if batch == 3:
                    tell(run, critical)
                assert not run.should_stop
                run.step(batch)
                if run.should_stop:
                    break
        print(batch, "numpy" in sys.modules)
        """,
        home,
    )
    assert printed == ["3 False"]
    assert len(said) == 1
    assert "run.should_stop is True from here on" in said[0]
    rows = recorded(home, "asked")
    assert actions(rows) == [choice]
    assert [row.step for row in batches(rows)] == [0, 1, 2, 3]


@pytest.mark.fast
def test_a_loop_of_ones_own_may_have_a_function_called(home: Path) -> None:
    printed, said = loop(
        """
        calls = []
        with watch(run_name="function", on_critical=calls.append) as run:
            for epoch in range(2):
                run.epoch(epoch)
                for batch in range(5):
                    if batch == 3:
                        tell(run, critical)
                    run.step(batch)
            print(len(calls), calls[0] is critical, run.should_stop)
        run.step()
        tell(run, steady), tell(run, critical)
        run.step()
        print(len(calls))
        """,
        home,
    )
    assert printed == ["1 True False", "1"]
    assert said == []
    assert len(batches(recorded(home, "function"))) == 10


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"on_critical": "sotp"}, "on_critical='sotp' can't be used: expected one of warn, stop, checkpoint_and_stop"),
        ({"on_critical": 3}, "or a function that takes the assessment"),
        ({"critical_headroom": 5}, "critical_headroom=5 can't be used: expected a share of the limit above 0"),
        ({"critical_headroom": "nan"}, "such as 0.05"),
        ({"ballast": "much"}, "ballast='much' can't be used: expected a size such as 256MiB"),
        ({"checkpoint_dir": " "}, "expected a folder's path"),
        ({"checkpoint_dir": 7}, "checkpoint_dir=7 can't be used"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, **given)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_the_environment_says_it_too() -> None:
    environ = {"OOMCAST_ON_CRITICAL": "stop", "OOMCAST_CRITICAL_HEADROOM": "0.1", "OOMCAST_BALLAST": "64MiB"}
    values = load(environ | {"OOMCAST_CHECKPOINT_DIR": "~/saved"})
    assert (values.on_critical, values.critical_headroom, values.ballast) == ("stop", 0.1, 64 << 20)
    assert values.checkpoint_dir == os.path.expanduser("~/saved")
    assert load({}).on_critical == "warn"


def anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


@pytest.mark.fast
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_ballast_is_memory_that_is_really_taken_and_given_back() -> None:
    before = anonymous_kib()
    ballast = Ballast(64 << 20)
    assert anonymous_kib() - before > 60 << 10
    ballast.release()
    ballast.release()
    give_back()
    assert anonymous_kib() - before < 8 << 10
    Ballast(0).release()


@slow
@needs_tensorflow
@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_the_checkpoint_is_as_readable_as_any_file_of_the_users(home: Path) -> None:
    fit(
        """
        import os
        os.umask(0o027)
        monitor = MemoryMonitor(run_name="mode", on_critical="checkpoint_and_stop", ballast=0)
        model().fit(x, y, callbacks=[Teller(monitor, [3]), monitor], **quiet)
        """,
        home,
    )
    (path,) = (home.parent / "saved").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
