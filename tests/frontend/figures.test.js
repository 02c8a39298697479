import assert from "node:assert/strict";
import { test } from "node:test";

import { FIGURES } from "../../frontend/oomcast_frontend/static/scripts/figures.js";
import { epochMarks, flags } from "../../frontend/oomcast_frontend/static/scripts/marks.js";
import { band, drawnRange } from "../../frontend/oomcast_frontend/static/scripts/parts.js";
import { READOUTS, rowAt } from "../../frontend/oomcast_frontend/static/scripts/readouts.js";
import { fromAnswer } from "../../frontend/oomcast_frontend/static/scripts/series.js";
import { GIB, MIB, PALETTE, SOURCE, START_MS, answer, event, gpuReadings, tickSeries } from "./made.js";

const VIEW = { x: "batch", range: null, window: "all", follow: true };

function given(change, more = {}) {
  const series = fromAnswer(answer(0, 20, { change, ...more.answer }));
  return { series, range: drawnRange(series, { ...VIEW, x: series.x }), zoomed: false, palette: PALETTE, size: { width: 800, height: 300 }, limitKind: "cgroup /a", events: [], device: null, ...more };
}

const memoryOf = (rss, limit) => ({ rss_bytes: () => rss, peak_bytes: () => rss, working_set_bytes: () => rss, limit_bytes: () => limit });
const SECONDS = Array.from({ length: 20 }, (_, index) => index);
const ticking = (change, more = {}) => given(more.rows ?? {}, { answer: { ticks: tickSeries(SECONDS, change) } });
const byColour = (figure, name) => figure.traces.find((trace) => trace.line.color === PALETTE[name]);
const saying = (name, series, device) => Object.fromEntries(READOUTS[name](series, rowAt(series, null), device).map(({ label, value }) => [label, value]));

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
  const peaks = figure.traces.find((trace) => trace.y.includes(2 * GIB));
  assert.equal(peaks.x.filter((x) => x === null).length, 1);
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
  assert.ok(figure.traces.some((trace) => trace.y.includes(5 * GIB)));
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

test("a bucket that ends with a tick still shows its batches", () => {
  const made = given({ kind: (seq) => seq % 2 }, { answer: { x: "time", bucket: 4 } });
  const none = Array.from({ length: 20 }, (_, seq) => (seq % 2 ? null : 700));
  const all = (value) => Array(20).fill(value);
  made.series.metrics.duration_ns = { last: none, min: all(500), max: all(900) };
  made.series.metrics.minor_faults = { last: none, min: all(1), max: all(3) };
  assert.deepEqual(byColour(FIGURES.duration(made), "time").y.slice(0, 3), [700, 500, 700]);
  assert.equal(byColour(FIGURES.faults(made), "minor").y.length, 20);
  assert.equal(saying("duration", made.series)[""], "0.5 µs");
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

test("what a GPU holds lies in layers: the device's use, the allocator's pool, its tensors, under total and cap", () => {
  const column = (value) => Array(3).fill(value);
  const figures = { used_bytes: column(12 * GIB), pool_bytes: column(8 * GIB), allocated_bytes: column(5 * GIB), allocated_peak_bytes: column(6 * GIB), total_bytes: column(16 * GIB), allocator_limit_bytes: column(10 * GIB) };
  const gpus = [gpuReadings(0, [1, 2, 3], figures)];
  const figure = FIGURES.gpu(given({}, { answer: { gpus } }));
  assert.deepEqual(figure.traces.map((trace) => trace.y[0] / GIB), [12, 8, 5, 6, 16, 10]);
  assert.deepEqual([figure.limit.text, figure.cap.text], ["device total · 16.0 GiB", "framework's cap · 10.0 GiB"]);
});

test("the two kinds of GPU readings are holes to each other, and none to the reader", () => {
  const figures = { used_bytes: [9, null, 9], total_bytes: [16, null, 16], allocated_bytes: [null, 4, null] };
  const made = given({}, { answer: { gpus: [gpuReadings(0, [1, 2, 3], figures)] } });
  assert.deepEqual(FIGURES.gpu(made).traces.map((trace) => trace.y), [[9, 9], [4], [16, 16]]);
  assert.deepEqual(saying("gpu", made.series), { tensors: "4 B", "device in use": "9 B", "device total": "16 B" });
});

test("what the device is used for is never said to be this process's; what lies beside its pool is others'", () => {
  const column = (value) => Array(3).fill(value);
  const of = (figures) => given({}, { answer: { gpus: [gpuReadings(0, [1, 2, 3], figures)] } }).series;
  const unknown = saying("gpu", of({ used_bytes: column(9 * GIB), total_bytes: column(16 * GIB) }));
  assert.deepEqual(unknown, { "device in use": "9.0 GiB", "device total": "16.0 GiB" });
  const pooled = saying("gpu", of({ used_bytes: column(9 * GIB), pool_bytes: column(6 * GIB), process_bytes: column(7 * GIB) }));
  assert.deepEqual([pooled["other use"], pooled["this process"]], ["3.0 GiB", "7.0 GiB"]);
});

test("the chosen GPU is drawn, the first where it is gone", () => {
  const gpus = [0, 1].map((device) => gpuReadings(device, [1, 2, 3], { used_bytes: Array(3).fill((device + 1) * GIB) }));
  const drawnOf = (device) => FIGURES.gpu({ ...given({}, { answer: { gpus } }), device }).traces[0].y[0];
  assert.deepEqual([null, 1, 7].map(drawnOf), [GIB, 2 * GIB, GIB]);
});

test("children have a line of their own, and a sum in the read-out", () => {
  const made = ticking({ children: () => 4, children_rss_bytes: () => 3 * GIB }, { rows: memoryOf(GIB, 64 * GIB) });
  const figure = FIGURES.memory(made);
  assert.deepEqual(new Set(byColour(figure, "children").y), new Set([3 * GIB]));
  assert.ok(figure.layout.yaxis.range[1] > 3 * GIB);
  const said = saying("memory", made.series);
  assert.deepEqual([said["4 children"], said["together"]], ["3.00 GiB", "4.00 GiB"]);
});

test("without children nothing is said of them", () => {
  const made = ticking({ children: () => 0, children_rss_bytes: () => 0 });
  assert.equal(byColour(FIGURES.memory(made), "children"), undefined);
  assert.ok(!("children" in saying("memory", made.series)));
});

test("swap's amount and its traffic have scales of their own", () => {
  const made = ticking({ swap_in_bytes: () => 8 * MIB, swap_out_bytes: () => 0, host_swap_bytes: () => GIB }, { rows: { swap_bytes: () => 2 * GIB } });
  const { layout } = FIGURES.swap(made);
  assert.ok(layout.yaxis.range[1] > 2 * GIB && layout.yaxis2.range[1] < 16 * MIB);
  assert.deepEqual(saying("swap", made.series), { "this process": "2.00 GiB", in: "8.0 MiB/s", out: "0 B/s", "whole host": "1.0 GiB" });
});

test("pressure is a share of time; a system without it is said to have none", () => {
  const made = ticking({ psi_some_us: () => 120_000, psi_full_us: () => 34_000, refaults: () => 1200 });
  assert.deepEqual(new Set(byColour(FIGURES.pressure(made), "some").y), new Set([0.12]));
  assert.deepEqual(saying("pressure", made.series), { "some task": "12 %", "all tasks": "3.4 %", refaults: "1,200/s" });
  assert.match(FIGURES.pressure(ticking({})).empty, /no PSI/);
  assert.match(FIGURES.pressure(given({})).empty, /Waiting/);
});

test("lost samples are a hole in what ticks measure, too", () => {
  const made = ticking({ psi_some_us: () => 1000, psi_full_us: () => 0 });
  made.series.ticks.columns.seq = SECONDS.map((second) => (second < 10 ? second : second + 5));
  made.events = [event(12, "gap")];
  assert.equal(byColour(FIGURES.pressure(made), "some").y.indexOf(null), 10);
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

test("flags of an agent's own are named beside them, where there is room", () => {
  const { series, range } = given({});
  const events = [event(3, "child", { detail: { text: "pt_data_worker 71 was killed." } }), event(4, "critical", { detail: { text: "Memory is critical." } }), event(19, "hang", { detail: { text: "Hung." } })];
  const found = flags(events, series, range, 800);
  assert.deepEqual(found.map(({ text, tone }) => [text, tone]), [["Child ended: pt_data_worker 71 was killed", "critical"], ["Critical: Memory is critical", "critical"], ["Hung: Hung", "critical"]]);
  assert.deepEqual(found.map(({ label, left }) => [label, left]), [["Child ended", true], ["Critical", false], ["Hung", true]]);
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
