import assert from "node:assert/strict";
import { test } from "node:test";

import { hasLittleFree, isPlainEnd, sentence } from "../../frontend/oomcast_frontend/static/scripts/sentence.js";
import { troubleOf } from "../../frontend/oomcast_frontend/static/scripts/sources.js";
import { GIB, MIB, START_MS, detail, event, source, status, summary, verdict } from "./made.js";

const say = (more) => sentence(summary(more), START_MS + 84_000).text;

test("a live run says what it uses of what, and what is free", () => {
  assert.equal(say({}), "Using 1.2 GiB of 4.0 GiB; 2.8 GiB free.");
});

test("what others use of the limit is not said to be this training's", () => {
  assert.equal(say({ rss_bytes: 130 * MIB }), "This process uses 130 MiB; 2.8 GiB of 4.0 GiB is free.");
});

test("without a limit nothing is said to be free", () => {
  assert.equal(say({ limit_bytes: null, headroom_bytes: null }), "Using 1.0 GiB; no limit known.");
});

test("over the limit is not a negative headroom", () => {
  assert.equal(say({ working_set_bytes: 5 * GIB, headroom_bytes: -GIB }), "Using 5.0 GiB of 4.0 GiB; 1.0 GiB over the limit.");
});

test("before the first sample it waits", () => {
  assert.equal(say({ working_set_bytes: null, rss_bytes: null, headroom_bytes: null }), "Waiting for the first batch.");
});

test("a silent run says for how long", () => {
  assert.equal(say({ state: "silent" }), "No word for 24 s. Last seen using 1.2 GiB, with 2.8 GiB free.");
});

test("a finished run says its epochs and its peak", () => {
  assert.equal(say({ state: "finished", epoch: 2 }), "Finished after 3 epochs; peak 1.4 GiB.");
  assert.equal(say({ state: "finished", epoch: 0 }), "Finished after 1 epoch; peak 1.4 GiB.");
  assert.equal(say({ state: "finished", epoch: null }), "Finished; peak 1.4 GiB.");
});

test("a dead run says where, and how much was free", () => {
  assert.equal(say({ state: "died", headroom_bytes: 12 * MIB }), "Died without a word at batch 210, with 12 MiB free.");
  const outcome = { type: "oom killed", message: "Killed by the kernel: out of memory." };
  assert.equal(say({ state: "died", outcome }), "Killed by the kernel: out of memory.");
  assert.equal(say({ state: "died", batch: null, headroom_bytes: null }), "Died without a word before the first batch.");
});

test("a failed run names its exception, and a long text is cut with the whole beside it", () => {
  assert.deepEqual(sentence(summary({ state: "failed", outcome: { type: "ValueError", message: "bad" } }), 0), { text: "Failed: ValueError: bad", rest: null, more: null });
  const long = sentence(summary({ state: "failed", outcome: { type: "ResourceExhaustedError", message: "x".repeat(500) } }), 0);
  assert.ok(long.text.length < 160 && long.text.endsWith("…"));
  assert.equal(long.more?.length, 500 + "ResourceExhaustedError: ".length);
  assert.equal(say({ state: "failed", outcome: null }), "Failed.");
});

test("less than a tenth free is little", () => {
  assert.equal(hasLittleFree(summary({ headroom_bytes: 0.39 * GIB })), true);
  assert.equal(hasLittleFree(summary({ headroom_bytes: 0.41 * GIB })), false);
  assert.equal(hasLittleFree(summary({ headroom_bytes: null })), false);
});

const NOW_MS = START_MS + 84_000;
const saying = (run) => sentence(run, NOW_MS, troubleOf(run)).text;

test("an ended run is told by its verdict", () => {
  assert.equal(say({ state: "died", verdict: verdict() }), "Killed by the kernel: out of memory.");
  const other = verdict({ ending: "something new", grade: "guessed", text: "It melted." });
  assert.equal(say({ state: "stopped", verdict: other }), "It melted.");
});

test("of a long verdict the first sentence is the headline", () => {
  const text = "Killed by the kernel: out of memory, with 7.9 GiB of 8.0 GiB in use. A child (pt_data_worker 71) had been killed by the kernel.";
  const said = sentence(summary({ state: "died", verdict: verdict({ text }) }), NOW_MS);
  assert.deepEqual([said.text, said.rest], ["Killed by the kernel: out of memory, with 7.9 GiB of 8.0 GiB in use.", "A child (pt_data_worker 71) had been killed by the kernel."]);
});

test("an exception is told by its type and message; a failed allocation by its verdict", () => {
  const outcome = { type: "MemoryError", message: "" };
  assert.equal(say({ state: "failed", outcome, verdict: verdict({ ending: "exception", text: "MemoryError" }) }), "Failed: MemoryError");
  assert.equal(say({ state: "failed", outcome, verdict: verdict({ ending: "allocation failed", text: "Memory could not be allocated: MemoryError" }) }), "Memory could not be allocated: MemoryError");
});

test("a clean end needs no verdict; one that nobody confirms does", () => {
  const finished = verdict({ ending: "finished", text: "Finished." });
  assert.equal(say({ state: "finished", verdict: finished, epoch: 2 }), "Finished after 3 epochs; peak 1.4 GiB.");
  const bare = verdict({ ending: "finished", grade: "probable", text: "Ended without saying so, with exit code 0." });
  assert.equal(say({ state: "finished", verdict: bare }), "Ended without saying so, with exit code 0.");
  assert.deepEqual([finished, bare].map((one) => isPlainEnd(summary({ state: "finished", verdict: one }))), [true, false]);
});

test("what the server inferred of a silent run is its sentence", () => {
  const inferred = verdict({ ending: "vanished", grade: "probable", text: "Vanished 3 min ago: probably killed.", inferred: true });
  assert.equal(say({ state: "silent", verdict: inferred }), "Vanished 3 min ago: probably killed.");
});

test("a rank that died is named", () => {
  const ranks = [source(), source({ id: "source02", host: "box2", rank: 1 })];
  const run = detail({ sources: 2, sources_detail: ranks, verdict: verdict({ source: "source02" }) });
  assert.equal(saying(run), "Rank 1 on box2: Killed by the kernel: out of memory.");
});

test("critical says what is left now, and forgets it when it is clear", () => {
  const said = { limit_kind: "cgroup /a/b", limit_bytes: 4 * GIB, headroom_bytes: 90 * MIB, spike_bytes: 10 * MIB, text: "Memory is critical." };
  const run = detail({ sources_detail: [source({ headroom_bytes: 50 * MIB })], events: [event(5, "critical", { detail: said })] });
  assert.equal(saying(run), "Critical: 40 MiB of 4.0 GiB free at the peak of a batch.");
  const others = { ...run, sources_detail: [source({ limit_kind: "host memory" })] };
  assert.equal(saying(others), "Critical: 90 MiB of 4.0 GiB free at the peak of a batch.");
  assert.equal(saying({ ...run, sources_detail: [source({ headroom_bytes: 0 })] }), "Critical: a batch's peak goes 10 MiB beyond the limit of 4.0 GiB.");
  assert.match(saying({ ...run, events: [...run.events, event(9, "clear")] }), /^Using/);
  assert.match(saying({ ...run, events: [event(5, "critical", { detail: { text: "Memory is critical." } })] }), /^Memory is critical/);
});

test("a hang says how long it has lasted by now, in the agent's words", () => {
  const hung = source({ status: status({ hung_since_ms: NOW_MS - 300_000 }) });
  const text = "Stalled by memory: no batch has ended for 62 s, and what it needs is being read from disk.";
  assert.equal(saying(detail({ sources_detail: [hung] })), "Hung: no batch has ended for 5 min, and nothing is computed.");
  assert.match(saying(detail({ sources_detail: [hung], events: [event(5, "hang", { detail: { text } })] })), /^Stalled by memory: no batch has ended for 5 min, and what/);
  assert.match(saying(detail({ state: "died", sources_detail: [hung] })), /^Died/);
});
