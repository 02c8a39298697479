import assert from "node:assert/strict";
import { test } from "node:test";

import { createFrames } from "../../frontend/oomcast_frontend/static/scripts/frames.js";
import { backoff, createLive } from "../../frontend/oomcast_frontend/static/scripts/live.js";

/** A wire without a network: the test plays the server, and the clock. */
function stage({ probe = () => Promise.reject(new Error("down")) } = {}) {
  const sockets = [];
  const timers = [];
  const said = [];
  const got = [];
  const live = createLive({
    open() {
      const socket = { readyState: 0, sent: [], send: (text) => socket.sent.push(JSON.parse(text)), close() {} };
      sockets.push(socket);
      return socket;
    },
    probe, onMessage: (message) => got.push(message), onConnection: (value) => said.push(value), random: () => 1,
    setTimer: (callback, ms) => timers.push({ callback, ms }) && timers.at(-1),
    clearTimer: (timer) => timers.includes(timer) && timers.splice(timers.indexOf(timer), 1),
  });
  const accept = () => {
    sockets.at(-1).readyState = 1;
    sockets.at(-1).onopen();
  };
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  return { live, sockets, timers, said, got, accept, settle };
}

test("it asks for the list and for the run that is looked at", () => {
  const { live, sockets, accept } = stage();
  live.watch("run00001");
  live.start();
  accept();
  assert.deepEqual(sockets[0].sent, [{ type: "watch_runs" }, { type: "watch", run: "run00001" }]);
  live.watch(null);
  assert.deepEqual(sockets[0].sent.at(-1), { type: "unwatch", run: "run00001" });
});

test("a lost connection is said, tried again, and watches the same run", async () => {
  const { live, sockets, timers, said, accept, settle } = stage();
  live.watch("run00001");
  live.start();
  accept();
  sockets[0].onclose();
  await settle();
  assert.deepEqual(said, ["open", "lost"]);
  timers.at(-1).callback();
  accept();
  assert.equal(sockets.length, 2);
  assert.deepEqual(sockets[1].sent.at(-1), { type: "watch", run: "run00001" });
  assert.equal(said.at(-1), "open");
});

test("a refused key is told apart from a dead server", async () => {
  const { live, sockets, said, settle } = stage({ probe: () => Promise.reject(Object.assign(new Error(), { kind: "denied" })) });
  live.start();
  sockets[0].onclose();
  await settle();
  assert.equal(said.at(-1), "denied");
});

test("waits double, are spread, and are bounded", () => {
  assert.deepEqual([0, 1, 2].map((attempt) => backoff(attempt, 1)), [400, 800, 1600]);
  assert.equal(backoff(3, 0), 1600);
  assert.equal(backoff(50, 1), 15_000);
});

test("coming back to the page tries at once, and only while it is lost", async () => {
  const { live, sockets, accept, settle } = stage();
  live.start();
  accept();
  live.hurry();
  assert.equal(sockets.length, 1);
  sockets[0].onclose();
  await settle();
  live.hurry();
  assert.equal(sockets.length, 2);
});

test("a quiet connection to a dead server is left", async () => {
  const { live, timers, said, accept, settle } = stage();
  live.start();
  accept();
  timers.at(-1).callback();
  await settle();
  assert.equal(said.at(-1), "lost");
});

test("many changes between two frames are one drawing", () => {
  const waiting = [];
  let drawn = 0;
  const frames = createFrames({ request: (callback) => waiting.push(callback), now: () => 0 });
  const owner = {};
  for (let change = 0; change < 5; change += 1) frames.invalidate(owner, () => void (drawn += 1));
  waiting.shift()();
  assert.deepEqual([drawn, waiting.length], [1, 0]);
});

test("after a slow drawing others have their turn first", async () => {
  const waiting = [];
  let clock = 0;
  let drawn = 0;
  const frames = createFrames({ request: (callback) => waiting.push(callback), now: () => clock });
  const owner = {};
  const draw = () => {
    drawn += 1;
    clock += 30;
  };
  frames.invalidate(owner, draw);
  waiting.shift()();
  await Promise.resolve();
  frames.invalidate(owner, draw);
  waiting.shift()();
  assert.equal(drawn, 1);
  clock += 60;
  waiting.shift()();
  assert.equal(drawn, 2);
});

test("what was forgotten is not drawn", () => {
  const waiting = [];
  const frames = createFrames({ request: (callback) => waiting.push(callback), now: () => 0 });
  const owner = {};
  frames.invalidate(owner, () => assert.fail("drawn"));
  frames.forget(owner);
  waiting.shift()();
});
