import assert from "node:assert/strict";
import { test } from "node:test";

import { tightestFirst } from "../../frontend/oomcast_frontend/static/scripts/limits.js";
import { inGroups, sumOfChildren } from "../../frontend/oomcast_frontend/static/scripts/processes.js";
import { atItsEnd, reportOf } from "../../frontend/oomcast_frontend/static/scripts/reports.js";
import { chosen, hasBatches, inOrder, seenFrom, troubleOf, verdictOf } from "../../frontend/oomcast_frontend/static/scripts/sources.js";
import { GIB, MIB, SOURCE, detail, event, source, status, verdict } from "./made.js";

const RANKS = [source({ id: "c", rank: 2 }), source({ id: "b", rank: 1, host: "box2", headroom_bytes: MIB, limit_kind: "host memory" }), source({ rank: 0 })];
const run = (more = {}) => detail({ sources: 3, sources_detail: RANKS, ...more });

test("the main source stands first, the others by rank", () => {
  assert.deepEqual(inOrder(run()).map(({ id }) => id), [SOURCE, "b", "c"]);
  assert.equal(chosen(run(), null)?.id, SOURCE);
  assert.equal(chosen(run(), "c")?.id, "c");
  assert.equal(chosen(null, null), null);
});

test("the page shows the chosen source's figures, the main one's where none is chosen", () => {
  assert.deepEqual([seenFrom(run(), "b").headroom_bytes, seenFrom(run(), "b").limit_kind], [MIB, "host memory"]);
  assert.equal(seenFrom(run(), null).headroom_bytes, 2.8 * GIB);
  assert.equal(seenFrom(run(), SOURCE).headroom_bytes, 2.8 * GIB);
});

test("a hang comes before what is critical, and an end before both", () => {
  const critical = [event(3, "critical", { source: "b" })];
  const hung = RANKS.map((one) => (one.id === "c" ? { ...one, status: status({ hung_since_ms: 5 }) } : one));
  const found = (more) => troubleOf(run(more)) && [troubleOf(run(more)).kind, troubleOf(run(more)).source.id];
  assert.deepEqual(found({ events: critical }), ["critical", "b"]);
  assert.deepEqual(found({ events: critical, sources_detail: hung }), ["hung", "c"]);
  assert.equal(found({ events: critical, sources_detail: hung, state: "died" }), null);
  assert.equal(found({ events: [...critical, event(4, "clear", { source: "b" })] }), null);
});

test("a source's own verdict is shown with it, else the run's", () => {
  const own = verdict({ ending: "stopped", source: "b" });
  const judged = run({ verdict: verdict({ source: "c" }), sources_detail: RANKS.map((one) => (one.id === "b" ? { ...one, verdict: own } : one)) });
  assert.equal(verdictOf(judged, "b"), own);
  assert.equal(verdictOf(judged, SOURCE)?.source, "c");
  assert.equal(verdictOf(run(), SOURCE), null);
});

test("a command that is watched from outside has no batches, until one is seen", () => {
  assert.deepEqual(["callback", "watch", "run", "attach"].map((kind) => hasBatches(source({ kind, batch: null }))), [true, true, false, false]);
  assert.equal(hasBatches(source({ kind: "run" })), true);
});

test("limits stand by tightness, the binding one first", () => {
  const limit = (kind, used_bytes, limit_bytes, binds = false) => ({ kind, used_bytes, limit_bytes, binds });
  const limits = [limit("loose", 1, 10), limit("tight", 9, 10), limit("binding", 5, 10, true), limit("none left", 0, 0)];
  assert.deepEqual(tightestFirst(limits).map(({ kind }) => kind), ["binding", "none left", "tight", "loose"]);
});

test("processes stand by their part, the largest first, whatever part that is", () => {
  const process = (pid, role, rss_bytes, swap_bytes = null) => ({ pid, name: "python", role, rss_bytes, swap_bytes });
  const all = [process(1, "other", 90), process(2, "child", 10, 1), process(3, "training", 5), process(4, "child", 20), process(5, "sidecar", null)];
  assert.deepEqual(inGroups(all).map(({ pid }) => pid), [3, 4, 2, 1, 5]);
  assert.deepEqual(sumOfChildren(all), { count: 2, rss_bytes: 30, swap_bytes: 1 });
  assert.equal(sumOfChildren([all[0], all[2]]), null);
});

test("a report is read into parts; what is not known of it is left alone", () => {
  const report = reportOf(verdict({ detail: {
    evidence: "it ended by SIGKILL; its cgroup's counter went up by 1", advice: "Use a smaller batch. `validation_batch_size` helps, too.",
    used_bytes: 7 * GIB, limit_bytes: 8 * GIB, growth_bytes_per_batch: 3 * MIB, epoch: 0, batch: 41, phase: "train", peak_bytes: null,
    processes: "python 4242 (training) 6.1 GiB; pt_data_worker 4243 (child) 80 MiB, 2 MiB in swap", assessment: "critical: 12 MiB of 8.0 GiB left", novel: "<b>x</b>",
  } }));
  assert.deepEqual(report.evidence, ["It ended by SIGKILL", "Its cgroup's counter went up by 1"]);
  assert.deepEqual(report.advice, ["Use a smaller batch.", "`validation_batch_size` helps, too."]);
  assert.deepEqual(report.facts.map(({ label, value }) => `${label}: ${value}`), [
    "in use at its end: 7.0 GiB of 8.0 GiB", "growth per batch: +3.0 MiB", "reached: epoch 1, batch 42, training", "last assessment: critical: 12 MiB of 8.0 GiB left",
  ]);
  assert.equal(report.processes.length, 2);
  assert.ok(!JSON.stringify(report).includes("<b>"));
});

test("a grade is a word, also one that is new; who inferred it is said", () => {
  const word = (more) => reportOf(verdict(more)).grade.word;
  assert.equal(word({}), "confirmed by the kernel");
  assert.equal(word({ ending: "crashed" }), "confirmed");
  assert.equal(word({ grade: "unknown" }), "cause not known");
  assert.equal(word({ grade: "certain-ish" }), "certain-ish");
  assert.equal(word({ ending: "vanished", grade: "probable", inferred: true }), "probable, inferred by the server");
  assert.equal(word({ ending: "vanished", grade: "unknown", detail: { inferred: 1 } }), "cause not known, put together afterwards");
});

test("the figures of an end are the agent's last look, not the last sample's", () => {
  const last = verdict({ detail: { used_bytes: 4 * GIB, limit_bytes: 4 * GIB, limit_kind: "cgroup /a" } });
  const { headroom_bytes, limit_kind } = atItsEnd(run({ state: "died" }), last, SOURCE);
  assert.deepEqual([headroom_bytes, limit_kind], [0, "cgroup /a"]);
  assert.equal(atItsEnd(run({ state: "died" }), last, "b").headroom_bytes, 2.8 * GIB);
  assert.equal(atItsEnd(run({ state: "died" }), verdict(), SOURCE).headroom_bytes, 2.8 * GIB);
});

test("a report without details is one without parts", () => {
  const report = reportOf(verdict({ detail: undefined }));
  assert.deepEqual([report.evidence, report.advice, report.facts, report.processes], [[], [], [], []]);
});
