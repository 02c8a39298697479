import assert from "node:assert/strict";
import { test } from "node:test";

import { FIGURES } from "../../frontend/oomcast_frontend/static/scripts/figures.js";
import { epochMarks, flags } from "../../frontend/oomcast_frontend/static/scripts/marks.js";
import { band, drawnRange } from "../../frontend/oomcast_frontend/static/scripts/parts.js";
import { READOUTS, rowAt } from "../../frontend/oomcast_frontend/static/scripts/readouts.js";
import { fromAnswer } from "../../frontend/oomcast_frontend/static/scripts/series.js";
import { GIB, MIB, PALETTE, SOURCE, START_MS, answer, event } from "./made.js";

const VIEW = { x: "batch", range: null, window: "all", follow: true };

function given(change, more = {}) {
  const series = fromAnswer(answer(0, 20, { change, ...more.answer }));
  return { series, range: drawnRange(series, { ...VIEW, x: series.x }), zoomed: false, palette: PALETTE, size: { width: 800, height: 300 }, limitKind: "cgroup /a", events: [], ...more };
}

const memoryOf = (rss, limit) => ({ rss_bytes: () => rss, peak_bytes: () => rss, working_set_bytes: () => rss, limit_bytes: () => limit });
const byColour = (figure, name) => figure.traces.find((trace) => trace.line.color === PALETTE[name]);

test("every figure is plain data, which could be sent anywhere", () => {
  for (const build of Object.values(FIGURES)) assert.doesNotThrow(() => structuredClone(build(given({}))));
});

test("only SVG lines are drawn: WebGL needs eval, which the page forbids", () => {
  for (const build of Object.values(FIGURES)) {
    for (const trace of build(given({})).traces) assert.deepEqual([trace.type, trace.mode], ["scatter", "lines"]);
  }
});

test("the limit is drawn to scale when the memory comes near it, and named", () => {
  const figure = FIGURES.memory(given(memoryOf(3 * GIB, 4 * GIB)));
  assert.equal(figure.limit.text, "cgroup a · 4.0 GiB");
  assert.ok(figure.limit.at > 0 && figure.limit.at < 0.2 && !figure.limit.above);
  assert.ok(figure.layout.yaxis.range[1] > 4 * GIB);
});

test("a far limit doesn't press the memory flat; it is named above the plot", () => {
  const figure = FIGURES.memory(given(memoryOf(GIB, 64 * GIB)));
  assert.ok(figure.layout.yaxis.range[1] < 2 * GIB);
  assert.deepEqual([figure.limit.at, figure.limit.above], [0, true]);
});

test("what others use of a far limit doesn't press this process's line flat", () => {
  const figure = FIGURES.memory(given({ ...memoryOf(GIB, 64 * GIB), working_set_bytes: () => 8 * GIB }));
  assert.ok(figure.layout.yaxis.range[1] < 2 * GIB);
});

test("a zoom fits y to what moves inside", () => {
  const change = { ...memoryOf(GIB, 2 * GIB), rss_bytes: (seq) => GIB + seq * MIB, working_set_bytes: () => null };
  const [from, to] = FIGURES.memory(given(change, { zoomed: true })).layout.yaxis.range;
  assert.ok(from > 0.9 * GIB && to < 1.1 * GIB);
});

test("a missing value is a hole in the line and in the area under it", () => {
  const change = { rss_bytes: (seq) => (seq === 7 ? null : GIB), peak_bytes: (seq) => (seq === 7 ? null : 2 * GIB) };
  const figure = FIGURES.memory(given(change));
  assert.equal(byColour(figure, "rss").y[7], null);
  assert.equal(byColour(figure, "rss").connectgaps, false);
  assert.equal(figure.traces[0].x.filter((x) => x === null).length, 1);
});

test("lost samples are a hole", () => {
  const seqs = [...Array(10).keys(), ...Array.from({ length: 10 }, (_, index) => 30 + index)];
  const made = given({}, { events: [event(20, "gap")] });
  made.series.columns.seq = seqs;
  const { y } = byColour(FIGURES.memory(made), "rss");
  assert.equal(y.length, 21);
  assert.equal(y.indexOf(null), 10);
});

test("a peak of one batch survives in a bucket", () => {
  const made = given({});
  const spiked = made.series.metrics.peak_bytes.last.map((_, row) => (row === 3 ? 5 * GIB : 1000));
  made.series.metrics.peak_bytes = { last: made.series.metrics.peak_bytes.last, min: made.series.metrics.peak_bytes.last, max: spiked };
  const figure = FIGURES.memory(made);
  assert.ok(figure.traces[0].y.includes(5 * GIB));
  assert.ok(figure.layout.yaxis.range[1] > 5 * GIB);
});

test("an area is one closed outline for each stretch without a hole", () => {
  const { x, y } = band([1, 2, 3, 4], [0, 0, null, 0], [5, 6, 7, 8], "rgb(1, 2, 3)", 0.5);
  assert.deepEqual(x, [1, 2, 2, 1, null, 4, 4]);
  assert.deepEqual(y, [5, 6, 0, 0, null, 8, 0]);
});

test("durations are of one batch already, however many a sample covers", () => {
  const figure = FIGURES.duration(given({ duration_ns: () => 900, steps: () => 3 }));
  assert.deepEqual(new Set(byColour(figure, "time").y), new Set([900]));
});

test("ticks have no batch duration and are no holes in it", () => {
  const change = { kind: (seq) => seq % 2, duration_ns: (seq) => (seq % 2 ? null : 500) };
  const { y } = byColour(FIGURES.duration(given(change, { answer: { x: "time" } })), "time");
  assert.equal(y.length, 10);
  assert.ok(!y.includes(null));
});

test("minor and major faults have scales of their own", () => {
  const { layout } = FIGURES.faults(given({ minor_faults: () => 9000, major_faults: () => 3 }));
  assert.ok(layout.yaxis.range[1] > 9000 && layout.yaxis2.range[1] < 10);
});

test("what can't be measured is said, not drawn as zero", () => {
  assert.match(FIGURES.swap(given({ swap_bytes: () => null })).empty, /can't be read/);
  assert.match(FIGURES.faults(given({ minor_faults: () => null, major_faults: () => null })).empty, /can't be counted/);
  assert.match(FIGURES.gpu(given({})).empty, /No GPU/);
});

test("a GPU's use, total and own share are three lines", () => {
  const column = (value) => Array(3).fill(value);
  const gpus = [{ device: 0, time_ms: [1, 2, 3], batch: [0, 1, 2], used_bytes: column(2 * GIB), total_bytes: column(16 * GIB), process_bytes: column(GIB), utilization_percent: column(5) }];
  const figure = FIGURES.gpu(given({}, { answer: { gpus } }));
  assert.deepEqual(figure.traces.map((trace) => trace.y[0]), [GIB, 2 * GIB, 16 * GIB]);
});

test("one sample is enough for a picture", () => {
  const series = fromAnswer(answer(0, 1));
  const range = drawnRange(series, VIEW);
  assert.ok(range[1] > range[0]);
  assert.equal(FIGURES.memory({ ...given({}), series, range }).empty, null);
});

test("an epoch is marked at its first sample, and named where there is room", () => {
  const { series, range } = given({});
  assert.deepEqual(epochMarks(series, range, 800).map(({ text, tick }) => [text, tick]), [["epoch 1", true], ["epoch 2", true]]);
});

test("an epoch that began left of the picture keeps its name at the edge", () => {
  const { series } = given({});
  assert.deepEqual(epochMarks(series, [4, 8], 800), [{ at: 0, text: "epoch 1", tick: false }]);
});

test("names of epochs don't run into each other", () => {
  const series = fromAnswer(answer(0, 1000));
  const named = epochMarks(series, [0, 999], 600).filter((mark) => mark.text);
  assert.ok(named.length >= 4);
  named.slice(1).forEach((mark, index) => assert.ok((mark.at - named[index].at) * 600 >= 60));
});

test("flags tell what happened; the limit that a run began with is none", () => {
  const { series, range } = given({});
  const events = [
    event(1, "limit", { detail: { kind: "cgroup /a" } }), event(3, "notice", { detail: { text: "no swap here" } }),
    event(15, "exception", { detail: { type: "ValueError", message: "bad" } }), event(16, "epoch_begin"),
  ];
  assert.deepEqual(flags(events, series, range, 800).map(({ text, tone }) => [text, tone]), [["Notice: no swap here", "notice"], ["Exception: ValueError: bad", "critical"]]);
});

test("flags that would cover each other become one, of the gravest tone", () => {
  const { series, range } = given({});
  const events = [event(18, "exception", { detail: { type: "E", message: "m" } }), event(19, "end", { batch: 18, detail: { outcome: "failed" } })];
  assert.deepEqual(flags(events, series, range, 800).map(({ text, tone }) => [text, tone]), [["Exception: E: m\nEnd: failed", "critical"]]);
});

test("an end after the newest sample is flagged at the edge, not lost", () => {
  const { series, range } = given({}, { answer: { x: "time" } });
  const late = event(30, "end", { detail: { outcome: "finished" } });
  assert.deepEqual(flags([late], series, range, 800).map(({ at }) => at), [1]);
  assert.deepEqual(flags([late], series, [range[0], range[0] + 5000], 800), []);
});

test("flags of other sources stay away", () => {
  const { series, range } = given({});
  assert.equal(SOURCE, series.source);
  assert.deepEqual(flags([event(3, "notice", { source: "source02" })], series, range, 800), []);
});

test("the read-out is of the nearest sample, of the newest without a crosshair", () => {
  const { series } = given({ rss_bytes: (seq) => seq * MIB });
  assert.equal(READOUTS.memory(series, rowAt(series, 7.4))[0].value, "7.0 MiB");
  assert.equal(READOUTS.memory(series, rowAt(series, null))[0].value, "19.0 MiB");
});

test("the window of a live view follows the newest sample", () => {
  const series = fromAnswer(answer(0, 2000));
  assert.deepEqual(drawnRange(series, { ...VIEW, window: "15m" }), [1999 - 900, 1999]);
  assert.deepEqual(drawnRange({ ...series, x: "time" }, { ...VIEW, x: "time" }), [START_MS, START_MS + 1_999_000]);
});

test("a limit that was lowered is drawn where it is now", () => {
  const lowered = { ...memoryOf(500 * MIB), limit_bytes: (seq) => (seq < 3 ? 2 * GIB : 750 * MIB) };
  const figure = FIGURES.memory(given(lowered));
  assert.equal(figure.limit.text, "cgroup a · 750 MiB");
  assert.ok(figure.layout.yaxis.range[1] < GIB);
});

test("the limit's name makes way for a line that crosses it at the left", () => {
  const crossing = { ...memoryOf(800 * MIB, 768 * MIB), working_set_bytes: () => 500 * MIB };
  assert.ok(FIGURES.memory(given(crossing)).limit.right);
  assert.ok(!FIGURES.memory(given(memoryOf(500 * MIB, 768 * MIB))).limit.right);
});
