"""The callback under real Keras: every phase, odd uses, and failures that must not reach the training."""

from __future__ import annotations

import importlib.util
import subprocess
import textwrap
from pathlib import Path

import pytest

from oomcast.errors import OomcastError
from oomcast.sample import EventKind, Phase
from oomcast.wire import Hello
from tests.support import Rows, batches, events, eventually, journals, recorded, run_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"),
]

PREAMBLE = """
import numpy as np, keras
from oomcast import MemoryMonitor

def model(**compile):
    net = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    net.compile("sgd", "mse", **compile)
    return net

x, y = np.ones((100, 8), "float32"), np.ones((100, 1), "float32")
quiet = {"verbose": 0, "batch_size": 20}
"""


def fit(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = PREAMBLE + textwrap.dedent(code)
    return run_script(script, home, timeout=150, **({"OOMCAST_MODE": "offline"} | environment))


def test_fit_evaluate_and_predict_of_one_instance_are_one_run(home: Path) -> None:
    result = fit(
        """
        monitor = MemoryMonitor(run_name="all")
        net = model()
        net.fit(x, y, epochs=2, validation_data=(x[:40], y[:40]), callbacks=[monitor], **quiet)
        net.evaluate(x, y, callbacks=[monitor], **quiet)
        net.predict(x, callbacks=[monitor], **quiet)
        net.fit(x, y, epochs=1, callbacks=[monitor], **quiet)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    assert list(journals(home)) == ["all"]
    rows = recorded(home, "all")
    seen = batches(rows)
    assert [row.batch for row in seen] == list(range(len(seen)))
    order = [Phase.TRAIN] * 5 + [Phase.VALIDATION] * 2
    assert [row.phase for row in seen] == order * 2 + [Phase.TEST] * 5 + [Phase.PREDICT] * 5 + [Phase.TRAIN] * 5
    assert [row.epoch for row in seen] == [0] * 7 + [1] * 7 + [None] * 10 + [0] * 5
    assert [event.detail for event in events(rows, EventKind.TRAIN_BEGIN)] == [
        {"epochs": 2, "steps": 5},
        {"epochs": 1, "steps": 5},
    ]
    assert "tensorflow" in str(events(rows, EventKind.MODEL)[0].detail["backend"])
    assert events(rows, EventKind.END)[0].detail["outcome"] == "finished"
    assert all(row.rss_bytes and row.peak_bytes and row.duration_ns and row.limit_bytes for row in seen)


def test_steps_per_execution_says_how_many_batches_a_sample_covers(home: Path) -> None:
    result = fit(
        """
        model(steps_per_execution=3).fit(x, y, epochs=2, callbacks=[MemoryMonitor(run_name="spe")], **quiet)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    assert [(row.step, row.steps, row.batch) for row in batches(recorded(home, "spe"))] == [
        (2, 3, 2),
        (4, 2, 4),
        (2, 3, 7),
        (4, 2, 9),
    ]


def test_data_of_unknown_size_is_counted_by_what_came(home: Path) -> None:
    result = fit(
        """
        import tensorflow as tf
        data = tf.data.Dataset.from_generator(
            lambda: ((x[:20], y[:20]) for _ in range(4)),
            output_signature=(tf.TensorSpec((None, 8)), tf.TensorSpec((None, 1))),
        )
        monitor = MemoryMonitor(run_name="unknown")
        model().fit(data, epochs=2, validation_data=data, verbose=0, callbacks=[monitor])
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    rows = recorded(home, "unknown")
    assert [row.batch for row in batches(rows)] == list(range(16))
    assert events(rows, EventKind.TRAIN_BEGIN)[0].detail == {"epochs": 2, "steps": None}


def test_copies_and_pickles_are_runs_of_their_own_also_of_a_subclass(home: Path) -> None:
    result = fit(
        """
        import copy, pickle
        class Mine(MemoryMonitor):
            def __init__(self, colour):
                super().__init__(tags=["t"])
                self.colour = colour
        first = Mine("red")
        model().fit(x, y, callbacks=[first], **quiet)
        model().fit(x, y, callbacks=[copy.deepcopy(first)], **quiet)
        third = pickle.loads(pickle.dumps(first))
        model().fit(x, y, callbacks=[third], **quiet)
        print(third.colour)
        """,
        home,
    )
    assert result.stdout == "red\n", result.stderr
    eventually(lambda: len(whole(home)) == 3, what="the end of three runs")
    found = whole(home)
    assert len({hello.run.id for hello, _ in found}) == 3
    assert all(hello.run.tags == ["t"] and len(batches(rows)) == 5 for hello, rows in found)


def whole(home: Path) -> list[tuple[Hello, Rows]]:
    """The runs whose agents have written the end."""
    try:
        return [(hello, rows) for hello, rows in journals(home).values() if events(rows, EventKind.END)]
    except OomcastError:  # an agent still holds its journal
        return []


def test_a_fit_that_raises_is_told_and_the_next_fit_is_recorded_as_well(home: Path) -> None:
    result = fit(
        """
        class Bomb(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 2:
                    raise RuntimeError("boom")
        monitor, net = MemoryMonitor(run_name="raised"), model()
        try:
            net.fit(x, y, callbacks=[monitor, Bomb()], **quiet)
        except RuntimeError:
            pass
        net.fit(x, y, callbacks=[monitor], **quiet)
        raise ValueError("the end")
        """,
        home,
    )
    assert result.returncode == 1
    rows = recorded(home, "raised")
    assert [row.step for row in batches(rows)] == [0, 1, 2, 0, 1, 2, 3, 4]
    detail = events(rows, EventKind.EXCEPTION)[0].detail
    assert (detail["type"], detail["message"]) == ("ValueError", "the end")
    assert events(rows, EventKind.END)[0].detail["outcome"] == "failed"


def test_a_fit_inside_a_fit_gives_both_and_goes_back_to_the_outer(home: Path) -> None:
    result = fit(
        """
        monitor, inner = MemoryMonitor(run_name="nested"), model()
        class Nest(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 1:
                    inner.fit(x[:60], y[:60], callbacks=[monitor], **quiet)
        model().fit(x, y, epochs=2, callbacks=[Nest(), monitor], **quiet)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    rows = recorded(home, "nested")
    assert [row.step for row in batches(rows)] == [0, 0, 1, 2, 1, 2, 3, 4] * 2
    assert [row.epoch for row in batches(rows)] == [0] * 8 + [1, 0, 0, 0, 1, 1, 1, 1]
    assert events(rows, EventKind.END)[0].detail["outcome"] == "finished"


def test_predict_and_evaluate_inside_a_fit_of_the_same_model_leave_its_epochs_alone(home: Path) -> None:
    result = fit(
        """
        monitor, net = MemoryMonitor(run_name="inside"), model()
        class Look(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                net.predict(x[:40], callbacks=[monitor], **quiet)
                net.evaluate(x[:20], y[:20], callbacks=[monitor], **quiet)
        net.fit(x, y, epochs=2, validation_data=(x[:20], y[:20]), callbacks=[monitor, Look()], **quiet)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    rows = recorded(home, "inside")
    seen = batches(rows)
    assert [row.batch for row in seen] == list(range(len(seen)))
    one = [Phase.TRAIN] * 5 + [Phase.VALIDATION] + [Phase.PREDICT] * 2 + [Phase.TEST]
    assert [row.phase for row in seen] == one * 2
    assert [event.epoch for event in events(rows, EventKind.EPOCH_END)] == [0, 1]
    assert len(events(rows, EventKind.TRAIN_END)) == 1
    assert events(rows, EventKind.END)[0].detail["outcome"] == "finished"


def test_a_fit_left_by_a_caught_exception_has_not_finished(home: Path) -> None:
    result = fit(
        """
        class Bomb(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                raise RuntimeError("boom")
        try:
            model().fit(x, y, callbacks=[MemoryMonitor(run_name="caught"), Bomb()], **quiet)
        except RuntimeError:
            pass
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    assert events(recorded(home, "caught"), EventKind.END)[0].detail["outcome"] == "failed"


def test_sparse_samples_cover_every_phase_to_its_end(home: Path) -> None:
    result = fit(
        """
        monitor = MemoryMonitor(run_name="sparse", sample_every=3)
        model().fit(x, y, epochs=2, validation_data=(x[:40], y[:40]), callbacks=[monitor], **quiet)
        """,
        home,
    )
    assert result.returncode == 0, result.stderr
    rows = batches(recorded(home, "sparse"))
    assert [(row.phase, row.step, row.steps, row.batch) for row in rows] == [
        (Phase.TRAIN, 2, 3, 2),
        (Phase.TRAIN, 4, 2, 4),
        (Phase.VALIDATION, 1, 2, 6),
        (Phase.TRAIN, 2, 3, 9),
        (Phase.TRAIN, 4, 2, 11),
        (Phase.VALIDATION, 1, 2, 13),
    ]


def test_what_a_signals_handler_raises_is_the_users_own(home: Path) -> None:
    result = fit(
        """
        import signal
        monitor = MemoryMonitor(run_name="alarm")
        class TimeIsUp(Exception): pass
        def ring(*_): raise TimeIsUp
        signal.signal(signal.SIGALRM, ring)
        monitor.set_model(model()); monitor.set_params({"epochs": 1, "steps": None})
        monitor.on_train_begin(); monitor.on_epoch_begin(0)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            step = 0
            while True:
                monitor.on_train_batch_begin(step); monitor.on_train_batch_end(step); step += 1
        except TimeIsUp:
            print("heard")
        """,
        home,
    )
    assert result.stdout.strip() == "heard", result.stderr


def test_monitoring_that_cannot_start_is_one_line_and_training_goes_on(home: Path) -> None:
    result = fit(
        """
        import oomcast.session
        oomcast.session.make_folder = lambda parent: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        model().fit(x, y, epochs=2, callbacks=[MemoryMonitor()], **quiet)
        print("trained")
        """,
        home,
    )
    assert result.stdout.strip() == "trained"
    ours = [line for line in result.stderr.splitlines() if line.startswith("oomcast:")]
    assert len(ours) == 1
    assert "No space left on device" in ours[0]


def test_a_hook_that_fails_is_told_once_and_counted_for_the_page(home: Path) -> None:
    result = fit(
        """
        class Breaker(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 1:
                    monitor._session._ring._map.close()
        monitor = MemoryMonitor(run_name="broken")
        model().fit(x, y, epochs=3, callbacks=[Breaker(), monitor], **quiet)
        print("trained")
        """,
        home,
    )
    assert result.stdout.strip() == "trained"
    assert result.stderr.count("oomcast: a measurement failed") == 1
    rows = recorded(home, "broken")
    assert len(batches(rows)) == 1
    assert max(int(event.detail["count"] or 0) for event in events(rows, EventKind.NOTICE)) >= 8


def test_disabled_costs_nothing_and_starts_nothing(home: Path) -> None:
    result = fit("model().fit(x, y, callbacks=[MemoryMonitor()], **quiet)", home, OOMCAST_MODE="disabled")
    assert result.returncode == 0
    assert "oomcast" not in result.stderr
    assert not home.exists()


@pytest.mark.parametrize("wrong", ["mode='onlin'", "sample_every=0", "server='nowhere'"])
def test_a_wrong_argument_is_refused_before_anything_starts(home: Path, wrong: str) -> None:
    result = fit(f"MemoryMonitor({wrong})", home)
    assert result.returncode == 1
    assert "SettingsError" in result.stderr.splitlines()[-1]
    assert "expected" in result.stderr.splitlines()[-1]


def test_import_costs_little_more_than_keras_alone(home: Path) -> None:
    # A ratio within one run: what `from oomcast import MemoryMonitor` adds once Keras is there, against Keras itself.
    result = run_script(
        """
import time
start = time.perf_counter(); import keras; mid = time.perf_counter()
from oomcast import MemoryMonitor
monitor = MemoryMonitor()
end = time.perf_counter()
print((end - mid) / (mid - start))
""",
        home,
    )
    assert float(result.stdout) < 0.05


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")
def test_on_jax_batch_ends_on_other_threads_are_all_there_and_in_their_places(home: Path) -> None:
    result = fit(
        """
        import threading
        threads = set()
        monitor = MemoryMonitor(run_name="jax")
        class Where(keras.callbacks.Callback):
            async_safe = True
            def on_train_batch_end(self, batch, logs=None):
                threads.add(threading.current_thread() is threading.main_thread())
        net = model()
        net.fit(x, y, epochs=3, validation_data=(x, y), callbacks=[Where(), monitor], **quiet)
        print(threads)
        """,
        home,
        KERAS_BACKEND="jax",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "{False}", "the hooks must have run asynchronously for this test to say anything"
    rows = batches(recorded(home, "jax"))
    assert sorted((row.epoch, row.phase, row.step) for row in rows) == [
        (epoch, phase, step) for epoch in range(3) for phase in (Phase.TRAIN, Phase.VALIDATION) for step in range(5)
    ]
    assert sorted(row.batch or 0 for row in rows) == list(range(30))
    assert all(row.duration_ns for row in rows)
