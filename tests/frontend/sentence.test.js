import assert from "node:assert/strict";
import { test } from "node:test";

import { evidenceOf, hasLittleFree, sentence } from "../../frontend/oomcast_frontend/static/scripts/sentence.js";
import { GIB, MIB, START_MS, summary } from "./made.js";

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
  assert.deepEqual(sentence(summary({ state: "failed", outcome: { type: "ValueError", message: "bad" } }), 0), { text: "Failed: ValueError: bad", more: null });
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

test("what a death was judged by is said; of an orderly end there is nothing to prove", () => {
  const end = { kind: "end", detail: { evidence: "it ended by SIGKILL; its cgroup's counter went up by 1" } };
  assert.equal(evidenceOf({ state: "died", events: [end] }), "Evidence: it ended by SIGKILL; its cgroup's counter went up by 1.");
  assert.equal(evidenceOf({ state: "finished", events: [end] }), null);
  assert.equal(evidenceOf({ state: "died", events: [] }), null);
});
