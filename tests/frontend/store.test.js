import assert from "node:assert/strict";
import { test } from "node:test";

import { length } from "../../frontend/oomcast_frontend/static/scripts/series.js";
import { MAX_POINTS, initial, reduce, routeOf, visibleRuns } from "../../frontend/oomcast_frontend/static/scripts/store.js";
import { GIB, RUN, START_MS, answer, detail, event, rows, source, status, summary, verdict } from "./made.js";

const play = (state, ...actions) => actions.reduce(reduce, state);
const open = () => initial({ page: "run", id: RUN });
const loaded = (count = 5) => play(open(), { type: "detail", run: RUN, detail: detail() }, { type: "series", run: RUN, generation: 1, answer: answer(0, count) });
const live = (message) => ({ type: "rows", message });
const seqs = (state) => state.run.series.columns.seq;

test("the address chooses the page", () => {
  assert.deepEqual(routeOf("/"), { page: "runs" });
  assert.deepEqual(routeOf("/runs/abc12345"), { page: "run", id: "abc12345" });
  assert.deepEqual(routeOf("/else"), { page: "nowhere" });
});

test("live runs stand first, then the newest; changed ones move", () => {
  const list = [
    summary({ id: "old-live", created_ms: 1 }), summary({ id: "ended", state: "failed", created_ms: 9 }), summary({ id: "new-live", created_ms: 5 }),
  ];
  const state = play(initial({ page: "runs" }), { type: "runs", runs: list, snapshot: true });
  assert.deepEqual(state.runs.map((run) => run.id), ["new-live", "old-live", "ended"]);
  const after = play(state, { type: "runs", runs: [{ ...list[2], state: "finished" }], snapshot: false });
  assert.deepEqual(after.runs.map((run) => run.id), ["old-live", "ended", "new-live"]);
});

test("a snapshot forgets runs that are gone, a change doesn't", () => {
  const state = play(initial({ page: "runs" }), { type: "runs", runs: [summary({ id: "a" }), summary({ id: "b" })], snapshot: true });
  assert.equal(play(state, { type: "runs", runs: [summary({ id: "a" })], snapshot: false }).runs.length, 2);
  assert.equal(play(state, { type: "runs", runs: [summary({ id: "a" })], snapshot: true }).runs.length, 1);
});

test("a run that someone deletes leaves the list, and its page says that it is unknown", () => {
  const listed = play(initial({ page: "runs" }), { type: "runs", runs: [summary({ id: "a" }), summary({ id: RUN })], snapshot: true });
  assert.deepEqual(play(listed, { type: "gone", run: RUN }).runs.map((run) => run.id), ["a"]);
  const opened = play(loaded(), { type: "gone", run: RUN }).run;
  assert.deepEqual([opened.detail, opened.series, opened.problem], [null, null, "unknown"]);
  assert.equal(play(loaded(), { type: "gone", run: "another1" }).run.problem, null);
});

test("the filter looks for every word, in any field", () => {
  const runs = [summary({ id: "a", project: "mnist", host: "gpu-07" }), summary({ id: "b", project: "mnist", host: "laptop" })];
  const state = play(initial({ page: "runs" }), { type: "runs", runs, snapshot: true }, { type: "filter", text: " MNIST  lap" });
  assert.deepEqual(visibleRuns(state).map((run) => run.id), ["b"]);
});

test("live rows grow the series and bring the summary with them", () => {
  const state = play(loaded(), live(rows(5, 2, { summary: summary({ rss_bytes: 3 * GIB }) })));
  assert.deepEqual(seqs(state), [0, 1, 2, 3, 4, 5, 6]);
  assert.equal(state.run.detail.rss_bytes, 3 * GIB);
});

test("rows that were fetched already are dropped", () => {
  assert.deepEqual(seqs(play(loaded(), live(rows(2, 4)))), [0, 1, 2, 3, 4, 5]);
});

test("a hole before the message is fetched once, not for ever", () => {
  const holed = play(loaded(), live(rows(8, 2)));
  assert.equal(holed.run.request.generation, 2);
  // Seqs 5 to 7 were events: the answer ends at 4 again, which is right, and must not start the next fetch.
  const after = play(holed, { type: "series", run: RUN, generation: 2, answer: answer(0, 5) }, live(rows(10, 1)));
  assert.equal(after.run.request.generation, 2);
  assert.deepEqual(seqs(after), [0, 1, 2, 3, 4, 8, 9, 10]);
});

test("rows that arrive while a fetch is under way are seen at once and not lost by its answer", () => {
  const waiting = play(loaded(), { type: "resync", run: RUN }, live(rows(5, 1)), live(rows(6, 1)));
  assert.deepEqual(seqs(waiting), [0, 1, 2, 3, 4, 5, 6]);
  const after = play(waiting, { type: "series", run: RUN, generation: 2, answer: answer(0, 6) });
  assert.deepEqual(seqs(after), [0, 1, 2, 3, 4, 5, 6]);
});

test("a hole between two messages that waited is found when the answer comes", () => {
  const waiting = play(loaded(), { type: "resync", run: RUN }, live(rows(5, 1)), live(rows(9, 1)));
  const after = play(waiting, { type: "series", run: RUN, generation: 2, answer: answer(0, 6) });
  assert.equal(after.run.request.generation, 3);
  assert.equal(after.run.loading, true);
});

test("an answer to a request that was overtaken is dropped", () => {
  const state = play(loaded(), { type: "zoom", range: [1, 3] }, { type: "all" });
  const late = play(state, { type: "series", run: RUN, generation: 2, answer: answer(1, 3) });
  assert.deepEqual(seqs(late), [0, 1, 2, 3, 4]);
});

test("a zoom stops following and asks for its stretch; following resumes with a fetch", () => {
  const zoomed = play(loaded(), { type: "zoom", range: [1, 3] });
  assert.deepEqual([zoomed.run.request.from, zoomed.run.request.to, zoomed.run.view.follow], [1, 3, false]);
  const quiet = play(zoomed, { type: "series", run: RUN, generation: 2, answer: answer(1, 3) }, live(rows(5, 3)));
  assert.deepEqual(seqs(quiet), [1, 2, 3]);
  const resumed = play(quiet, { type: "follow" });
  assert.deepEqual([resumed.run.request.generation, resumed.run.request.from, resumed.run.view.range], [3, null, null]);
});

test("switching the axis keeps the stretch that is looked at", () => {
  const state = play(loaded(100), { type: "zoom", range: [10, 20] }, { type: "series", run: RUN, generation: 2, answer: answer(0, 100) }, { type: "x", axis: "time" });
  assert.deepEqual(state.run.view.range, [START_MS + 10_000, START_MS + 20_000]);
  assert.equal(state.run.loading, true);
  assert.equal(play(state, { type: "x", axis: "time" }).run.request.generation, 3);
});

test("a series that outgrows the screen is fetched anew, and goes on meanwhile", () => {
  const state = play(loaded(MAX_POINTS), live(rows(MAX_POINTS, 1)));
  assert.equal(state.run.request.generation, 2);
  const next = play(state, live(rows(MAX_POINTS + 1, 1)));
  assert.equal(length(next.run.series), MAX_POINTS + 2);
  const after = play(next, { type: "series", run: RUN, generation: 2, answer: answer(0, 10, { bucket: 300, watermark: MAX_POINTS }) });
  assert.equal(length(after.run.series), 11);
});

test("a window is asked for again when the whole series has told where it starts", () => {
  const state = play(loaded(), { type: "window", name: "15m" });
  const whole = answer(0, 2000, { bucket: 2, watermark: 1999 });
  const after = play(state, { type: "series", run: RUN, generation: 2, answer: whole });
  assert.deepEqual([after.run.request.generation, after.run.request.from], [3, 1999 - 900]);
});

test("after a lost connection everything is fetched again", () => {
  const state = play(loaded(), { type: "connection", value: "open" }, { type: "connection", value: "lost" }, { type: "connection", value: "open" });
  assert.deepEqual([state.run.request.generation, state.run.detailGeneration], [2, 2]);
});

test("the first connection fetches nothing twice", () => {
  assert.equal(play(loaded(), { type: "connection", value: "open" }).run.request.generation, 1);
});

test("rows of another source or run don't mix in", () => {
  assert.equal(length(play(loaded(), live(rows(5, 1, { source: "source02" }))).run.series), 5);
  assert.equal(length(play(loaded(), live(rows(5, 1, { run: "run00002" }))).run.series), 5);
});

test("events are kept once, however they come", () => {
  const first = event(7, "notice");
  const state = play(loaded(), live(rows(5, 1, { events: [first] })), { type: "detail", run: RUN, detail: detail({ events: [first] }) });
  assert.equal(state.run.detail.events.length, 1);
});

test("an unknown run says so, and is asked for again when it is heard of", () => {
  const unknown = play(open(), { type: "detailFailed", run: RUN, unknown: true }, { type: "seriesFailed", run: RUN, generation: 1 });
  assert.equal(unknown.run.problem, "unknown");
  const heard = play(unknown, { type: "runs", runs: [summary()], snapshot: false });
  assert.equal(heard.run.problem, null);
  assert.equal(heard.run.detailGeneration, 2);
});

test("answers for a run that was left change nothing", () => {
  const state = play(loaded(), { type: "route", route: { page: "run", id: "run00002" }, x: "batch" });
  assert.equal(play(state, { type: "detail", run: RUN, detail: detail() }), state);
});

test("a status that comes live is its source's, and stays until the next", () => {
  const hung = status({ hung_since_ms: 5 });
  const state = play(loaded(), live(rows(5, 1, { status: hung })), live(rows(6, 1)));
  assert.deepEqual(state.run.detail.sources_detail[0].status, hung);
});

test("live rows bring their source's own figures up to date", () => {
  const two = detail({ sources: 2, sources_detail: [source(), source({ id: "source02", rank: 1 })] });
  const change = { working_set_bytes: () => 3 * GIB, limit_bytes: () => 4 * GIB };
  const state = play(loaded(), { type: "detail", run: RUN, detail: two }, live(rows(5, 1, { source: "source02", change, summary: summary({ sources: 2 }) })));
  assert.deepEqual(state.run.detail.sources_detail.map(({ headroom_bytes }) => headroom_bytes), [2.8 * GIB, GIB]);
});

test("an end, or another source, has the details asked for again, once", () => {
  const ended = { type: "runs", runs: [summary({ state: "died", verdict: verdict() })], snapshot: false };
  assert.equal(play(loaded(), ended).run.detailGeneration, 2);
  assert.equal(play(loaded(), ended, ended).run.detailGeneration, 2);
  const joined = { type: "runs", runs: [summary({ sources: 2 })], snapshot: false };
  assert.equal(play(loaded(), joined, joined).run.detailGeneration, 2);
  assert.equal(play(loaded(), { type: "runs", runs: [summary()], snapshot: false }).run.detailGeneration, 1);
});

test("a verdict's report outlives summaries that lack it, but not another verdict", () => {
  const whole = verdict({ detail: { evidence: "a" } });
  const known = { type: "detail", run: RUN, detail: detail({ state: "died", verdict: whole }) };
  const shown = (said) => play(loaded(), known, { type: "runs", runs: [summary({ state: "died", verdict: said })], snapshot: false }).run.detail.verdict;
  assert.deepEqual(shown(verdict({ text: "New words." })), { ...whole, text: "New words." });
  assert.equal(shown(verdict({ grade: "probable" })).detail, undefined);
  assert.equal(shown(null), null);
});

test("a command that is watched from outside is shown over time, whatever axis was asked for", () => {
  const outside = detail({ sources_detail: [source({ kind: "run", batch: null })] });
  const state = play(open(), { type: "detail", run: RUN, detail: outside }, { type: "series", run: RUN, generation: 1, answer: answer(0, 0) });
  assert.deepEqual([state.run.view.x, state.run.request.generation], ["time", 2]);
  const timed = play(state, { type: "series", run: RUN, generation: 2, answer: answer(0, 5, { x: "time" }) });
  assert.deepEqual([timed.run.view.x, timed.run.request.generation, timed.run.loading], ["time", 2, false]);
});

test("another source starts with its first GPU", () => {
  const state = play(loaded(), { type: "device", device: 3 });
  assert.equal(state.run.device, 3);
  assert.equal(play(state, { type: "source", id: "source02" }).run.device, null);
});

test("a frame that the server has thinned is no hole, and one after it is", () => {
  const thinned = { ...rows(5, 3, { change: { seq: (seq) => seq } }), to_seq: 499, rows: 495 };
  const merged = play(loaded(), live(thinned), live(rows(500, 1)));
  assert.equal(merged.run.request.generation, 1);
  assert.deepEqual(merged.run.series.columns.seq, [0, 1, 2, 3, 4, 5, 6, 7, 500]);
  assert.equal(merged.run.series.watermark, 500);
  assert.equal(play(merged, live(rows(502, 1))).run.request.generation, 2);
});
