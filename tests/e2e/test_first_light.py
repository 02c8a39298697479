"""From `fit` to the pixel: a real training, a real server, a real browser."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ServerProcess, Training, Watched
from tests.support import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"),
]

FIT = """
    import time
    import numpy as np, keras
    from oomcast import MemoryMonitor

    class Pace(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.05)

    net = keras.Sequential([
        keras.layers.Input((16, 16, 3)), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(), keras.layers.Dense(10),
    ])
    net.compile("adam", "mse")
    x, y = np.random.rand(1600, 16, 16, 3).astype("float32"), np.zeros((1600, 10), "float32")
    net.fit(x, y, epochs=EPOCHS, batch_size=16, validation_data=(x[:160], y[:160]), verbose=0,
            callbacks=[Pace(), MemoryMonitor(run_name="first-light", project="e2e")])
"""

# Keeps, for every draw of the memory chart, which batch it reached and when.
RECORD_DRAWS = """() => {
    const chart = document.querySelector('[data-chart=memory]');
    window.draws = [];
    new MutationObserver(() => window.draws.push([Number(chart.dataset.lastBatch), Number(chart.dataset.drawnAt)]))
        .observe(chart, {attributes: true, attributeFilter: ['data-drawn-at']});
}"""


def chart(page: Any, name: str) -> Any:
    return page.locator(f"[data-chart={name}]")


def last_batch(page: Any) -> int:
    return int(chart(page, "memory").get_attribute("data-last-batch") or -1)


def x_range(page: Any, name: str) -> list[float]:
    """What Plotly shows of the shared axis in one chart."""
    selector = f"[data-chart={name}] .js-plotly-plot"
    found: list[float] = page.eval_on_selector(selector, "plot => plot._fullLayout.xaxis.range.map(Number)")
    return found


def pixels_late(server: ServerProcess, run: str, draws: list[list[float]]) -> list[float]:
    """Milliseconds from each batch's end to the first draw that shows it."""
    series = server.get(f"/api/runs/{run}/series?points=10000").json()["columns"]
    ended = dict(zip(series["batch"], series["time_ms"], strict=True))
    late, shown = [], draws[0][0]
    for batch, drawn_ms in draws[1:]:
        late += [drawn_ms - ended[number] for number in range(int(shown) + 1, int(batch) + 1) if number in ended]
        shown = max(shown, batch)
    return late


def test_a_training_is_seen_live_zoomed_switched_and_reloaded(
    server: ServerProcess, home: Path, watched: Watched, record_property: Any
) -> None:
    training = Training(FIT.replace("EPOCHS", "5"), home, server.base)
    try:
        eventually(lambda: server.run("first-light"), 60, "the run on the server")
        run = server.wait_for("first-light", "live")["id"]
        page = watched.open(server.link(run))
        assert page.url == f"{server.base}/runs/{run}"

        # It grows while training runs, and the time from a batch's end to its pixel is taken.
        page.evaluate(RECORD_DRAWS)
        first = last_batch(page)
        eventually(lambda: last_batch(page) > first + 60, 60, "the curve's growth")
        assert training.process.poll() is None, "the training must still run"
        late = pixels_late(server, run, page.evaluate("window.draws"))
        quantiles = statistics.quantiles(late, n=20)
        figures = {"median_ms": round(statistics.median(late)), "p95_ms": round(quantiles[18]), "batches": len(late)}
        record_property("batch_end_to_pixel", json.dumps(figures))
        print(f"batch end to pixel: {figures}")
        # The page is less than 20 batches behind, of which each takes 50 ms and more.
        paces = server.get(f"/api/runs/{run}/series?points=10000").json()["columns"]["time_ms"]
        assert quantiles[18] < 20 * statistics.median(b - a for a, b in itertools.pairwise(paces))

        # Zoom by dragging: all charts show the same part, following stops, and resumes by its button.
        box = chart(page, "memory").locator(".crosshair").bounding_box()
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.2, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, y, steps=8)
        page.mouse.up()
        page.get_by_test_id("follow").wait_for(state="visible")
        eventually(lambda: x_range(page, "memory") == x_range(page, "duration"), what="the shared axis")
        zoomed = x_range(page, "memory")
        assert zoomed[0] > 0
        assert zoomed[1] < last_batch(page) or zoomed[1] - zoomed[0] < last_batch(page) * 0.6
        page.get_by_test_id("follow").click()
        eventually(lambda: x_range(page, "memory")[1] > zoomed[1], what="following again")

        # The axis, then a reload: the choice is in the address.
        page.get_by_test_id("x-time").click()
        eventually(lambda: "x=time" in page.url, what="x=time in the address")
        page.reload()
        page.wait_for_selector("html[data-ready=true]", state="attached")
        assert "x=time" in page.url
        eventually(lambda: int(chart(page, "memory").get_attribute("data-points") or 0) > 60, what="the chart")

        summary = server.wait_for("first-light", "finished", 90)
        assert summary["epochs"] == 5
        assert summary["batch"] == 5 * 110 - 1
        eventually(lambda: "Finished" in page.get_by_test_id("sentence").inner_text(), what="the page's last word")
    finally:
        training.end()
    assert watched.console == []
    assert watched.hosts == {server.base.removeprefix("http://")}


def test_the_list_shows_runs_live_and_a_closed_connection_is_told_and_mended(home: Path, watched: Watched) -> None:
    server = ServerProcess(home)
    training = None
    try:
        page = watched.open(server.link())
        assert page.get_by_test_id("empty").is_visible()
        training = Training(FIT.replace("EPOCHS", "30"), home, server.base)
        row = page.get_by_test_id("run").first
        row.wait_for(timeout=60_000)
        assert "first-light" in row.inner_text()
        server.kill()
        page.get_by_test_id("notice").wait_for(state="visible", timeout=20_000)
        before = row.inner_text()
        server = ServerProcess(home, server.port)
        page.get_by_test_id("notice").wait_for(state="hidden", timeout=30_000)
        eventually(lambda: row.inner_text() != before, 30, "the row's going on without a reload")
        # Nothing of what was recorded meanwhile is missing.
        training.process.send_signal(signal.SIGINT)
        summary = server.wait_for("first-light", "stopped", 60)
        columns = server.get(f"/api/runs/{summary['id']}/series?points=10000").json()["columns"]
        assert columns["batch"] == list(range(summary["batch"] + 1))
    finally:
        if training:
            training.end()
        server.stop()


def test_a_page_without_its_key_says_what_to_do(server: ServerProcess, watched: Watched) -> None:
    watched.page.goto(server.base + "/")
    text = watched.page.inner_text("body")
    assert "oomcast link" in text
    assert os.linesep not in watched.page.title()
