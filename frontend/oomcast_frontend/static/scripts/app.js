/** Wiring only: the address decides the page, answers and messages become actions, the state flows down. */

import { ApiError, createApi } from "./api.js";
import { mountBar } from "./bar.js";
import { h } from "./dom.js";
import { createFrames } from "./frames.js";
import { createLive } from "./live.js";
import { mountNotice } from "./notice.js";
import { loadPlotly } from "./plot.js";
import { mountRun } from "./run.js";
import { mountRuns } from "./runs.js";
import { initial, reduce, routeOf } from "./store.js";
import { STRINGS } from "./strings.js";
import { palette, startTheme } from "./theme.js";

/** Ages ("3 s ago") grow by themselves. */
const CLOCK_MS = 1000;

const main = /** @type {HTMLElement} */ (document.querySelector(".main"));
const bar = mountBar(/** @type {HTMLElement} */ (document.querySelector(".bar")), { onTheme: () => theme.toggle() });
const notice = mountNotice(/** @type {HTMLElement} */ (document.querySelector(".notice")));
const frames = createFrames();
const api = createApi();

/** @returns {import("./types.js").XAxis} */
const axisOf = () => (new URLSearchParams(location.search).get("x") === "time" ? "time" : "batch");

let state = initial(routeOf(location.pathname), axisOf());
let colours = palette();
/** @type {{update: (state: any, now_ms: number, colours: any) => void, destroy: () => void} | null} */
let page = null;
let firstRuns = true;
const asked = { id: "", detail: 0, series: 0 };
let fetching = new AbortController();

/** @param {{type: string} & Record<string, any>} action */
function dispatch(action) {
  state = reduce(state, action);
  frames.invalidate(dispatch, render);
  if (action["type"] === "x") keepAxis();
  fetchWanted();
}

function render() {
  bar.update(state);
  notice.update(state);
  page?.update(state, Date.now() + state.clockOffset_ms, colours);
  document.title = state.run?.detail ? STRINGS.titleOf(state.run.detail.name) : STRINGS.title;
  if (state.route.page === "runs" && state.runs) onReady();
}

function onReady() {
  document.documentElement.dataset["ready"] = "true";
}

// ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function showPage() {
  page?.destroy();
  main.replaceChildren();
  main.className = `main ${state.route.page}`;
  if (state.route.page === "run") {
    loadPlotly().catch(() => undefined);
    page = mountRun(main, { emit: dispatch, frames, onReady });
  } else if (state.route.page === "runs") {
    // Whoever looks at the list opens a run next.
    whenIdle(() => loadPlotly().catch(() => undefined));
    page = mountRuns(main, { onFilter: (text) => dispatch({ type: "filter", text }) });
  } else {
    page = null;
    main.append(h("section", { class: "card nowhere" }, h("h1", {}, STRINGS.run.nowhere), h("a", { href: "/", class: "button" }, STRINGS.run.toRuns)));
    onReady();
  }
}

/** @param {() => void} callback */
function whenIdle(callback) {
  if ("requestIdleCallback" in window) requestIdleCallback(callback, { timeout: 3000 });
  else setTimeout(callback, 500);
}

function navigate() {
  delete document.documentElement.dataset["ready"];
  const route = routeOf(location.pathname);
  live.watch(route.page === "run" ? route.id : null);
  dispatch({ type: "route", route, x: axisOf() });
  showPage();
  scrollTo(0, 0);
}

function keepAxis() {
  const url = new URL(location.href);
  if (state.run?.view.x === "time") url.searchParams.set("x", "time");
  else url.searchParams.delete("x");
  history.replaceState(null, "", url);
}

/** @param {MouseEvent} event */
function onLink(event) {
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || event.defaultPrevented || link.origin !== location.origin || link.hash) return;
  if (routeOf(link.pathname).page === "nowhere") return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  navigate();
  main.focus({ preventScroll: true });
}

// ── fetching ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Fetches what the state wants and has not been asked for yet. */
function fetchWanted() {
  const run = state.run;
  if (!run) return;
  if (asked.id !== run.id) Object.assign(asked, { id: run.id, detail: 0, series: 0 });
  if (asked.detail !== run.detailGeneration) {
    asked.detail = run.detailGeneration;
    fetchDetail(run.id);
  }
  if (asked.series !== run.request.generation) {
    asked.series = run.request.generation;
    fetchSeries(run);
  }
}

/** @param {string} id */
async function fetchDetail(id) {
  try {
    dispatch({ type: "detail", run: id, detail: await api.run(id) });
  } catch (error) {
    dispatch({ type: "detailFailed", run: id, unknown: refused(error) === "unknown" });
  }
}

/** @param {import("./store.js").RunPage} run */
async function fetchSeries({ id, source, view, request }) {
  fetching.abort();
  fetching = new AbortController();
  const { generation, from, to } = request;
  const points = Math.round(Math.min(1500, Math.max(300, main.clientWidth)));
  try {
    const answer = await api.series(id, { source, x: view.x, from, to, points }, fetching.signal);
    dispatch({ type: "series", run: id, generation, answer });
  } catch (error) {
    if (refused(error)) dispatch({ type: "seriesFailed", run: id, generation });
  }
}

async function fetchRuns() {
  try {
    const { runs, now_ms } = await api.runs();
    dispatch({ type: "clock", offset_ms: now_ms - Date.now() });
    dispatch({ type: "runs", runs, snapshot: true });
  } catch (error) {
    refused(error);
    dispatch({ type: "runsFailed" });
  }
}

/**
 * @param {unknown} error
 * @returns {ApiError["kind"] | null} null: not refused, but given up by us
 */
function refused(error) {
  if (!(error instanceof ApiError)) return null;
  if (error.kind === "denied") dispatch({ type: "connection", value: "denied" });
  return error.kind;
}

// ── live ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const live = createLive({
  open: () => new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`),
  probe: () => api.server(),
  onConnection: (value) => {
    if (value === "open") firstRuns = true;
    dispatch({ type: "connection", value });
  },
  onMessage,
});

/** @param {any} message */
function onMessage(message) {
  if (message.type === "rows") dispatch({ type: "rows", message });
  else if (message.type === "resync") dispatch({ type: "resync", run: message.run });
  else if (message.type === "gone") dispatch({ type: "gone", run: message.run });
  else if (message.type === "runs") {
    dispatch({ type: "runs", runs: message.runs, snapshot: firstRuns });
    firstRuns = false;
  }
}

const theme = startTheme(() => {
  colours = palette();
  frames.invalidate(dispatch, render);
});

document.addEventListener("click", onLink);
addEventListener("popstate", navigate);
addEventListener("online", () => live.hurry());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) live.hurry();
});
setInterval(() => frames.invalidate(dispatch, render), CLOCK_MS);

showPage();
live.watch(state.run?.id ?? null);
live.start();
fetchRuns();
fetchWanted();
frames.invalidate(dispatch, render);
