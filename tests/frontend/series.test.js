import assert from "node:assert/strict";
import { test } from "node:test";

import { append, batchTime, fromAnswer, length, nearest, windowStart } from "../../frontend/oomcast_frontend/static/scripts/series.js";
import { answer, rows } from "./made.js";

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
