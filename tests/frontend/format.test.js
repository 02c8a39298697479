import assert from "node:assert/strict";
import { test } from "node:test";

import { formatAgo, formatBytes, formatCount, formatDuration, formatOrdinal, formatRate, formatShare, formatSpan, nameLimit, shortLimit } from "../../frontend/oomcast_frontend/static/scripts/format.js";
import { batchTicks, byteTicks, countTicks, durationTicks, timeTicks } from "../../frontend/oomcast_frontend/static/scripts/ticks.js";
import { GIB, MIB } from "./made.js";

test("bytes are read in binary units", () => {
  assert.equal(formatBytes(0), "0 B");
  assert.equal(formatBytes(512), "512 B");
  assert.equal(formatBytes(12 * MIB), "12 MiB");
  assert.equal(formatBytes(3.2 * MIB), "3.2 MiB");
  assert.equal(formatBytes(1.2 * GIB), "1.2 GiB");
  assert.equal(formatBytes(12.94 * GIB, true), "12.94 GiB");
  assert.equal(formatBytes(-5 * MIB), "−5.0 MiB");
});

test("a figure never reads 1,024 of a unit that has a larger one", () => {
  assert.equal(formatBytes(GIB - 1), "1.0 GiB");
  assert.equal(formatBytes(MIB - 1), "1.0 MiB");
});

test("missing is a dash, never zero", () => {
  for (const format of [formatBytes, formatCount, formatDuration, formatOrdinal]) assert.equal(format(null), "–");
});

test("what is counted from 0 is read from 1", () => assert.equal(formatOrdinal(0), "1"));

test("durations go from microseconds to hours", () => {
  assert.equal(formatDuration(2900), "2.9 µs");
  assert.equal(formatDuration(880_000_000), "880 ms");
  assert.equal(formatDuration(2_900_000_000), "2.90 s");
  assert.equal(formatDuration(75e9), "1 min");
  assert.equal(formatSpan(12 * 60_000), "12 min");
  assert.equal(formatSpan(185 * 60_000), "3 h 5 min");
});

test("ages have one unit", () => {
  assert.equal(formatAgo(1000, 2000), "now");
  assert.equal(formatAgo(0, 185 * 60_000), "3 h ago");
});

test("byte ticks stand at binary steps", () => {
  assert.deepEqual(byteTicks(0, 18 * GIB).texts, ["0", "4 GiB", "8 GiB", "12 GiB", "16 GiB"]);
  assert.deepEqual(byteTicks(0, 2.1 * GIB).texts, ["0", "0.5 GiB", "1 GiB", "1.5 GiB", "2 GiB"]);
});

test("byte ticks of a narrow stretch stay short and differ", () => {
  const { texts } = byteTicks(1.3 * GIB, 1.5 * GIB);
  assert.ok(texts.length >= 3);
  assert.equal(new Set(texts).size, texts.length);
  assert.ok(texts.every((text) => text.length <= 9), texts.join());
});

test("no tick reads minus zero", () => {
  for (const { values } of [byteTicks(0, 10), countTicks(10), durationTicks(1e9)]) assert.ok(Object.is(values[0], 0));
});

test("a duration axis keeps one unit", () => {
  assert.deepEqual(durationTicks(1.2e9, 3).texts, ["0", "0.5 s", "1 s"]);
  assert.deepEqual(durationTicks(120e6, 3).texts, ["0", "50 ms", "100 ms"]);
});

test("the tick that says 50 stands at batch 49, which is the fiftieth", () => {
  const { values, texts } = batchTicks(0, 199, 4);
  assert.deepEqual(texts, ["50", "100", "150", "200"]);
  assert.deepEqual(values, [49, 99, 149, 199]);
});

test("time ticks stand at whole minutes of the reader's clock", () => {
  const noon = Date.parse("2026-01-01T12:00:10Z");
  assert.deepEqual(timeTicks(noon, noon + 200_000, 4, "UTC").texts, ["12:01", "12:02", "12:03"]);
  assert.deepEqual(timeTicks(noon, noon + 200_000, 4, "Asia/Kolkata").texts, ["17:31", "17:32", "17:33"]);
});

test("a cgroup's limit is named by the last part of its path", () => {
  assert.equal(shortLimit("cgroup /kubepods/pod7/trainer"), "cgroup trainer");
  assert.equal(shortLimit("cgroup /"), "cgroup /");
  assert.equal(shortLimit("host memory"), "host memory");
});

test("small shares keep a digit", () => {
  assert.deepEqual([0, 0.0125, 0.4, -0.02, null].map(formatShare), ["0 %", "1.3 %", "40 %", "−2.0 %", "–"]);
  assert.equal(formatRate(3 * MIB), "3.0 MiB/s");
});

test("a limit's long path is shortened in its middle, and what it does is said in words", () => {
  assert.equal(nameLimit("cgroup /job/7 (with swap)"), "cgroup /job/7 (with swap)");
  assert.equal(nameLimit("cgroup /job (memory.high)"), "cgroup /job (throttles)");
  assert.equal(nameLimit("cgroup /kubepods/burstable/pod1234567890/trainer"), "cgroup /kubepods/…/trainer");
  assert.equal(nameLimit(`cgroup /kubepods/${"x".repeat(90)} (with swap)`).length, 40 + " (with swap)".length);
  assert.equal(nameLimit("GPU 0 (MIG 1g.10gb, TensorFlow's cap)"), "GPU 0 (MIG 1g.10gb, TensorFlow's cap)");
  assert.equal(shortLimit("cgroup /a/b (memory.high)"), "cgroup b (throttles)");
});
