import assert from "node:assert/strict";
import { test } from "node:test";

import { append, batchTime, fromAnswer, length, nearest, windowStart } from "../../frontend/oomcast_frontend/static/scripts/series.js";
import { perSecond, shareOfTime, tickAt } from "../../frontend/oomcast_frontend/static/scripts/rates.js";
import { START_MS, answer, gpuReadings, rows, tickSeries, ticks } from "./made.js";

test("new rows are put behind, repeated ones are left out", () => {
  const series = append(fromAnswer(answer(0, 5)), rows(3, 5));
  assert.deepEqual(series.columns.seq, [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.equal(series.watermark, 7);
});

test("appending changes nothing of what was there", () => {
  const before = fromAnswer(answer(0, 5));
  append(before, rows(5, 2));
  assert.equal(length(before), 5);
  assert.equal(before.watermark, 4);
});

test("ticks grow a series over time, and are left out where x counts batches", () => {
  const change = { kind: (seq) => seq % 2 };
  assert.equal(length(append(fromAnswer(answer(0, 4)), rows(4, 4, { change }))), 6);
  assert.equal(length(append(fromAnswer(answer(0, 4, { x: "time" })), rows(4, 4, { change }))), 8);
});

test("a metric or column that the message lacks is a hole, not a shift", () => {
  const message = rows(3, 2);
  delete message.metrics.swap_bytes;
  const series = append(fromAnswer(answer(0, 3)), message);
  assert.deepEqual(series.metrics.swap_bytes.last, [1000, 1000, 1000, null, null]);
});

test("bucketed series keep their extremes, and a raw row is its own", () => {
  const bucketed = answer(0, 2, { bucket: 10 });
  bucketed.metrics.peak_bytes = { last: [1, 2], min: [0, 1], max: [9, 8] };
  const { last, min, max } = append(fromAnswer(bucketed), rows(2, 1)).metrics.peak_bytes;
  assert.deepEqual([last, min, max], [[1, 2, 1000], [0, 1, 1000], [9, 8, 1000]]);
});

test("GPU readings join by device, without repeats", () => {
  const gpu = (device, times) => ({ device, time_ms: times, ...Object.fromEntries(["batch", "used_bytes", "total_bytes", "process_bytes", "utilization_percent"].map((name) => [name, times])) });
  const series = append(fromAnswer(answer(0, 1, { gpus: [gpu(0, [1, 2])] })), rows(1, 1, { gpus: [gpu(0, [2, 3]), gpu(1, [3])] }));
  assert.deepEqual(series.gpus.map(({ device, used_bytes }) => [device, used_bytes]), [[0, [1, 2, 3]], [1, [3]]]);
});

test("the nearest sample is found at both ends and between", () => {
  const column = [null, 10, 20, 40];
  assert.deepEqual([-5, 10, 14, 16, 29, 31, 99].map((x) => nearest(column, x)), [1, 1, 1, 2, 2, 3, 3]);
  assert.equal(nearest([], 3), -1);
});

test("batch time is the median of the training's batches; a sample's duration is of one batch, however many it covers", () => {
  const change = { duration_ns: (seq) => (seq === 2 ? 1e12 : 300), steps: () => 3 };
  assert.equal(batchTime(fromAnswer(answer(0, 5, { change }))), 300);
  const validated = { duration_ns: (seq) => (seq < 2 ? 300 : 20), phase: (seq) => (seq < 2 ? "train" : "validation") };
  assert.equal(batchTime(fromAnswer(answer(0, 9, { change: validated }))), 300);
  assert.equal(batchTime(fromAnswer(answer(0, 0))), null);
});

test("a window starts where its time does, in units of x", () => {
  assert.equal(windowStart(fromAnswer(answer(0, 100)), 10_000), 89);
  assert.equal(windowStart(fromAnswer(answer(0, 100)), 1e9), null);
});

test("new ticks are put behind, repeated ones are left out; what comes new was not known before", () => {
  const series = fromAnswer(answer(0, 3, { ticks: tickSeries([1, 3], { refaults: () => 5 }) }));
  const grown = append(series, rows(3, 1, { ticks: ticks([3, 5], { refaults: () => 7, novel: () => 1 }) }));
  assert.deepEqual(grown.ticks.columns.seq, [1, 3, 5]);
  assert.deepEqual(grown.ticks.metrics.refaults.last, [5, 5, 7]);
  assert.deepEqual(grown.ticks.metrics.novel.last, [null, null, 1]);
  assert.deepEqual(series.ticks.columns.seq, [1, 3]);
});

test("a server without ticks is read as one that has none", () => {
  const { ticks: none, ...old } = answer(0, 3);
  const message = rows(3, 1);
  delete message.ticks;
  assert.equal(none.columns.seq.length, 0);
  assert.deepEqual(append(fromAnswer(old), message).ticks.columns.seq, []);
});

test("a batch's GPU reading that comes after a later tick is no repeat", () => {
  const tick = (time) => gpuReadings(0, [time], { used_bytes: [9], total_bytes: [16] });
  const batch = gpuReadings(0, [START_MS + 5], { allocated_bytes: [4] });
  const series = fromAnswer(answer(0, 1, { gpus: [tick(START_MS + 10)] }));
  const grown = append(append(series, rows(1, 1, { gpus: [batch] })), rows(2, 1, { gpus: [batch] }));
  assert.deepEqual(grown.gpus[0].allocated_bytes, [null, 4]);
});

test("what a tick counts becomes a rate by the time since the tick before", () => {
  const made = fromAnswer(answer(0, 4, { ticks: tickSeries([0, 1, 2], { psi_some_us: () => 250_000, swap_in_bytes: () => 3000 }) }));
  made.ticks.columns.time_ms = [0, 1000, 3000];
  assert.deepEqual(shareOfTime(made.ticks, "psi_some_us"), [0.25, 0.25, 0.125]);
  assert.deepEqual(perSecond(made.ticks, "swap_in_bytes"), [3000, 3000, 1500]);
  assert.deepEqual(perSecond(made.ticks, "unheard of"), [null, null, null]);
});

test("a bucket of ticks shows its worst second, never more than the whole of it", () => {
  const made = answer(0, 4, { ticks: tickSeries([0, 60], {}) });
  made.ticks.columns.time_ms = [0, 60_000];
  made.ticks.metrics.psi_full_us = { last: [0, 0], min: [0, 0], max: [400_000, 1_200_000] };
  assert.deepEqual(shareOfTime(fromAnswer(made).ticks, "psi_full_us"), [0.4, 1]);
});

test("the newest row's tick is the newest one, though several stand at its batch", () => {
  const made = fromAnswer(answer(0, 3, { ticks: tickSeries([0, 1, 2, 3]) }));
  made.ticks.columns.batch = [null, 0, 2, 2];
  assert.equal(tickAt(made, 2), 3);
  assert.equal(tickAt(made, 0), 1);
});
