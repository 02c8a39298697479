/**
 * The whole state of the page, and how each action changes it (pure: no clock, no DOM, no network).
 *
 * What must be fetched stands in the state as a request with a generation number: the shell fetches when the number
 * rises, and an answer to an older number is dropped. So every race is decided here, where tests can play it.
 */

import { append, fromAnswer, length, nearest, windowStart, xs } from "./series.js";
import { chosen, hasBatches, heard, isNews, merged } from "./sources.js";

/**
 * @typedef {import("./types.js").RunSummary} RunSummary
 * @typedef {import("./types.js").RunDetail} RunDetail
 * @typedef {import("./types.js").RunEvent} RunEvent
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").RowsMessage} RowsMessage
 * @typedef {import("./types.js").Connection} Connection
 * @typedef {import("./types.js").Range} Range
 * @typedef {import("./types.js").XAxis} XAxis
 * @typedef {import("./types.js").WindowName} WindowName
 *
 * @typedef {{page: "runs"} | {page: "run", id: string} | {page: "nowhere"}} Route
 * @typedef {{x: XAxis, range: Range | null, window: WindowName, follow: boolean}} View
 * @typedef {{generation: number, from: number | null, to: number | null}} Request
 *
 * @typedef {object} RunPage
 * @property {string} id
 * @property {RunDetail | null} detail
 * @property {number} detailGeneration
 * @property {"unknown" | "failed" | null} problem
 * @property {string | null} source the one that is drawn; null until the server names its main one
 * @property {number | null} device the GPU that is drawn; null: the first
 * @property {View} view
 * @property {Series | null} series
 * @property {Request} request
 * @property {boolean} loading
 * @property {boolean} seriesFailed
 * @property {RowsMessage[]} pending rows that came while a request was under way
 * @property {number | null} liveSeq the last seq that the live messages covered, kept or not
 *
 * @typedef {object} State
 * @property {Route} route
 * @property {Connection} connection
 * @property {number} clockOffset_ms what to add to this machine's clock to get the server's
 * @property {RunSummary[] | null} runs
 * @property {boolean} runsFailed
 * @property {string} filter
 * @property {RunPage | null} run
 */

/** Points of a series beyond which it is fetched anew at screen resolution: what SVG still draws in a frame. */
export const MAX_POINTS = 3000;
/** Messages to keep while a fetch is under way: a minute of them. Beyond that, a new fetch is cheaper. */
const MAX_PENDING = 600;
const MAX_EVENTS = 2000;
/** @type {Record<Exclude<WindowName, "all">, number>} */
export const WINDOWS_MS = { "15m": 15 * 60_000, "1h": 60 * 60_000 };

/**
 * @param {Route} route
 * @param {XAxis} [x]
 * @returns {State}
 */
export function initial(route, x = "batch") {
  return {
    route, connection: "connecting", clockOffset_ms: 0, runs: null, runsFailed: false, filter: "",
    run: route.page === "run" ? runPage(route.id, x) : null,
  };
}

/**
 * @param {string} path of the address
 * @returns {Route}
 */
export function routeOf(path) {
  if (path === "/") return { page: "runs" };
  const run = /^\/runs\/([^/]+)\/?$/.exec(path);
  return run ? { page: "run", id: run[1] } : { page: "nowhere" };
}

/**
 * @param {string} id
 * @param {XAxis} x
 * @returns {RunPage}
 */
function runPage(id, x) {
  return {
    id, detail: null, detailGeneration: 1, problem: null, source: null, device: null,
    view: { x, range: null, window: "all", follow: true },
    series: null, request: { generation: 1, from: null, to: null }, loading: true, seriesFailed: false,
    pending: [], liveSeq: null,
  };
}

/** @type {Record<string, (state: State, action: any) => State>} */
const REDUCERS = {
  route: (state, { route, x }) => ({ ...state, route, run: route.page === "run" ? runPage(route.id, x) : null }),
  connection: (state, { value }) => connected({ ...state, connection: value }, state.connection),
  clock: (state, { offset_ms }) => ({ ...state, clockOffset_ms: offset_ms }),
  filter: (state, { text }) => ({ ...state, filter: text }),
  runs: withRuns,
  gone: withoutRun,
  runsFailed: (state) => ({ ...state, runsFailed: true }),
  detail: onRun((run, { detail }) => ({ ...run, detail: mergedDetail(run, detail), problem: null })),
  detailFailed: onRun((run, { unknown }) => ({ ...run, problem: run.detail ? null : unknown ? "unknown" : "failed" })),
  series: onRun((run, { generation, answer }) => withSeries(run, generation, answer)),
  seriesFailed: onRun((run, { generation }) =>
    generation === run.request.generation ? { ...run, loading: false, seriesFailed: true } : run),
  rows: (state, { message }) => withRows(state, message),
  resync: onRun(refetched),
  retry: onRun(refetched),
  zoom: onRun((run, { range }) => requested({ ...run, view: { ...run.view, range, follow: false } })),
  follow: onRun((run) => requested({ ...run, view: { ...run.view, range: null, follow: true } })),
  all: onRun((run) => requested({ ...run, view: { ...run.view, range: null, window: "all", follow: true } })),
  window: onRun((run, { name }) => requested({ ...run, view: { ...run.view, range: null, window: name, follow: true } })),
  x: onRun((run, { axis }) => (axis === run.view.x ? run : requested({ ...run, view: turned(run, axis) }))),
  source: onRun((run, { id }) => (id === run.source ? run : requested({ ...run, source: id, series: null, device: null }))),
  device: onRun((run, { device }) => ({ ...run, device })),
};

/**
 * @param {State} state
 * @param {{type: string} & Record<string, any>} action
 * @returns {State}
 */
export function reduce(state, action) {
  const next = REDUCERS[action.type]?.(state, action) ?? state;
  return next.run && hasOnlyTime(next.run) ? { ...next, run: requested({ ...next.run, view: turned(next.run, "time") }) } : next;
}

/**
 * Whether batches are asked for where there are none to see: then time is the only axis.
 *
 * @param {RunPage} run
 */
function hasOnlyTime({ detail, source, view, loading }) {
  return view.x === "batch" && !loading && source !== null && !hasBatches(chosen(detail, source));
}

/**
 * An action of the run page: nothing when there is none, or when it is meant for a run that was left.
 *
 * @param {(run: RunPage, action: any) => RunPage} change
 * @returns {(state: State, action: any) => State}
 */
function onRun(change) {
  return (state, action) => {
    if (!state.run || (action.run !== undefined && action.run !== state.run.id)) return state;
    return { ...state, run: change(state.run, action) };
  };
}

/**
 * Back after a break, everything may have changed.
 *
 * @param {State} state
 * @param {Connection} before
 */
function connected(state, before) {
  const back = state.connection === "open" && (before === "lost" || before === "denied");
  return back && state.run ? { ...state, run: refetched(state.run) } : state;
}

// ── the list ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * @param {State} state
 * @param {{runs: RunSummary[], snapshot: boolean}} action a snapshot is the whole list, else only what changed
 * @returns {State}
 */
function withRuns(state, { runs, snapshot }) {
  const fresh = new Map(runs.map((run) => [run.id, run]));
  const kept = snapshot ? [] : (state.runs ?? []).filter((run) => !fresh.has(run.id));
  const list = snapshot || state.runs ? [...kept, ...runs].sort(byInterest) : state.runs;
  const { run } = state;
  const own = fresh.get(run?.id ?? "");
  return { ...state, runs: list, runsFailed: false, run: run && own ? withSummary(run, own) : run };
}

/**
 * Someone has deleted a run.
 *
 * @param {State} state
 * @param {{run: string}} action
 * @returns {State}
 */
function withoutRun(state, { run: id }) {
  const run = state.run?.id === id ? { ...state.run, detail: null, series: null, pending: [], problem: /** @type {const} */ ("unknown") } : state.run;
  return { ...state, run, runs: state.runs && state.runs.filter((other) => other.id !== id) };
}

/** @param {{state: string}} run */
export function hasEnded(run) {
  return run.state !== "live" && run.state !== "silent";
}

/**
 * @param {RunSummary} a
 * @param {RunSummary} b
 */
function byInterest(a, b) {
  return Number(hasEnded(a)) - Number(hasEnded(b)) || b.created_ms - a.created_ms || (a.id < b.id ? -1 : 1);
}

/** @param {State} state */
export function visibleRuns(state) {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (/** @type {RunSummary} */ run) =>
    [run.project, run.name, run.host, run.state, ...(run.tags ?? [])].join(" ").toLowerCase();
  return (state.runs ?? []).filter((run) => words.every((word) => text(run).includes(word)));
}

// ── one run ───────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * A run that was unknown when the page opened, and is heard of now, is worth asking for again.
 *
 * @param {RunPage} run
 * @param {RunSummary} summary
 * @returns {RunPage}
 */
function withSummary(run, summary) {
  if (run.detail) {
    const detailGeneration = run.detailGeneration + Number(isNews(run.detail, summary));
    return { ...run, detail: merged(run.detail, summary), detailGeneration };
  }
  return run.problem === "unknown" ? refetched({ ...run, problem: null }) : run;
}

/**
 * The answer, with the events that came live while it was under way.
 *
 * @param {RunPage} run
 * @param {RunDetail} detail
 * @returns {RunDetail}
 */
function mergedDetail(run, detail) {
  return { ...detail, events: joinEvents(detail.events, run.detail?.events ?? []) };
}

/**
 * @param {RunEvent[]} old
 * @param {RunEvent[]} fresh
 */
function joinEvents(old, fresh) {
  if (fresh.length === 0) return old;
  const known = new Set(old.map((event) => `${event.source} ${event.seq}`));
  return old.concat(fresh.filter((event) => !known.has(`${event.source} ${event.seq}`))).slice(-MAX_EVENTS);
}

/**
 * @param {RunPage} run
 * @returns {RunPage} with its series asked for anew, for its view
 */
function requested(run) {
  const [from, to] = run.view.range ?? [null, null];
  return { ...run, request: { generation: run.request.generation + 1, from, to }, loading: true, seriesFailed: false, pending: [], liveSeq: null };
}

/**
 * @param {RunPage} run
 * @returns {RunPage} with its details and series asked for anew
 */
function refetched(run) {
  return { ...requested(run), detailGeneration: run.detailGeneration + 1 };
}

/**
 * @param {RunPage} run
 * @param {number} generation
 * @param {any} answer
 * @returns {RunPage}
 */
function withSeries(run, generation, answer) {
  if (generation !== run.request.generation) return run;
  const series = fromAnswer(answer);
  const loaded = { ...run, series, source: series.source, loading: false, seriesFailed: false, pending: [] };
  const wider = startOfWindow(loaded);
  // A window is known only once the whole series has told which batch stands at its start.
  if (series.bucket > 1 && wider !== null && run.request.from === null) {
    return { ...requested(loaded), request: { generation: generation + 1, from: wider, to: null } };
  }
  return run.pending.reduce(followed, { ...loaded, liveSeq: run.liveSeq });
}

/** @param {RunPage} run */
function startOfWindow({ series, view }) {
  return series && view.follow && view.window !== "all" ? windowStart(series, WINDOWS_MS[view.window]) : null;
}

/**
 * @param {State} state
 * @param {RowsMessage} message
 * @returns {State}
 */
function withRows(state, message) {
  const run = state.run;
  if (!run || message.run !== run.id) return state;
  const known = withSummary(run, message.summary);
  const detail = known.detail && heard({ ...known.detail, events: joinEvents(known.detail.events, message.events ?? []) }, message);
  return { ...state, run: followed({ ...known, detail }, message) };
}

/**
 * The run with the message's rows drawn, kept for later, or left, as its view wants it.
 *
 * @param {RunPage} run
 * @param {RowsMessage} message
 * @returns {RunPage}
 */
function followed(run, message) {
  if (run.source === null && !run.loading) return requested({ ...run, source: message.summary.main_source ?? message.source });
  if (run.source !== null && message.source !== run.source) return run;
  if (run.loading) return waiting(run, message);
  if (!run.series || isHole(run, message)) {
    // The server has committed all rows before this message, so a fetch that starts now includes them.
    return { ...requested(run), pending: [message], liveSeq: message.from_seq - 1 };
  }
  return grown({ ...run, liveSeq: message.to_seq }, message);
}

/**
 * @param {RunPage} run
 * @param {RowsMessage} message
 */
function isHole(run, message) {
  const last = run.liveSeq ?? run.series?.watermark ?? -1;
  return run.view.follow && message.from_seq > last + 1;
}

/**
 * @param {RunPage} run
 * @param {RowsMessage} message
 * @returns {RunPage}
 */
function waiting(run, message) {
  if (run.pending.length >= MAX_PENDING) return requested(run);
  const series = run.series && run.view.follow ? append(run.series, message) : run.series;
  return { ...run, series, pending: [...run.pending, message] };
}

/**
 * @param {RunPage} run
 * @param {RowsMessage} message
 * @returns {RunPage}
 */
function grown(run, message) {
  if (!run.series || !run.view.follow) return run;
  const series = append(run.series, message);
  const next = { ...run, series };
  if (length(series) <= MAX_POINTS) return next;
  const again = requested(next);
  return { ...again, request: { ...again.request, from: startOfWindow(next) }, liveSeq: run.liveSeq };
}

/**
 * @param {RunPage} run
 * @param {XAxis} axis
 * @returns {View} the same stretch of the run, in units of the other axis
 */
function turned({ view, series }, axis) {
  if (!view.range || !series || series.x !== view.x) return { ...view, x: axis, range: null, follow: view.range ? true : view.follow };
  const other = axis === "batch" ? series.columns.batch : series.columns.time_ms;
  const ends = view.range.map((end) => other[nearest(xs(series), end)]);
  const range = ends[0] == null || ends[1] == null || ends[0] >= ends[1] ? null : /** @type {Range} */ (ends);
  return { ...view, x: axis, range, follow: range ? view.follow : true };
}
