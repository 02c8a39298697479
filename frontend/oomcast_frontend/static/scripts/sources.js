/** The sources of a run (its ranks): which is shown, how each stands now, and what is wrong with one (pure). */

/**
 * @typedef {import("./types.js").RunSummary} RunSummary
 * @typedef {import("./types.js").RunDetail} RunDetail
 * @typedef {import("./types.js").RunEvent} RunEvent
 * @typedef {import("./types.js").RowsMessage} RowsMessage
 * @typedef {import("./types.js").SourceDetail} SourceDetail
 *
 * @typedef {object} Trouble of a run that lives
 * @property {"hung" | "critical"} kind
 * @property {SourceDetail} source
 * @property {number} since_ms
 * @property {import("./types.js").Detail} detail of the event that told it
 */

/** What a source's own figures replace in the run's, which are the main source's. */
const FIGURES = /** @type {const} */ ([
  "host", "pid", "phase", "epoch", "batch", "step", "rss_bytes", "peak_bytes", "swap_bytes", "limit_bytes", "limit_kind",
  "working_set_bytes", "headroom_bytes",
]);

/**
 * @param {RunDetail} detail
 * @returns {SourceDetail[]} the main one first, then by rank, then as they came
 */
export function inOrder({ sources_detail: sources, main_source: main }) {
  const rank = (/** @type {SourceDetail} */ source) => (source.id === main ? -1 : source.rank ?? Infinity);
  return [...sources].sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
}

/**
 * @param {RunDetail | null} detail
 * @param {string | null} id null: the main one
 * @returns {SourceDetail | null}
 */
export function chosen(detail, id) {
  if (!detail) return null;
  return detail.sources_detail.find((source) => source.id === id) ?? inOrder(detail)[0] ?? null;
}

/**
 * The run as its chosen source has it.
 *
 * @param {RunDetail} detail
 * @param {string | null} id
 * @returns {RunDetail}
 */
export function seenFrom(detail, id) {
  const source = detail.sources_detail.find((one) => one.id === id);
  if (!source || detail.sources_detail.length < 2 || source.id === detail.main_source) return detail;
  const own = Object.fromEntries(FIGURES.filter((name) => name in source).map((name) => [name, source[name]]));
  // How many there are of what a source counts is told of the main one only.
  return { ...detail, steps_per_epoch: source.step === null ? null : detail.steps_per_epoch, ...own };
}

/**
 * The run's sources after a live message of one of them.
 *
 * @param {RunDetail} detail
 * @param {RowsMessage} message
 * @returns {RunDetail}
 */
export function heard(detail, message) {
  const sources_detail = (detail.sources_detail ?? []).map((source) => (source.id === message.source ? grown(source, message) : source));
  return { ...detail, sources_detail };
}

/**
 * @param {SourceDetail} source
 * @param {RowsMessage} message
 * @returns {SourceDetail}
 */
function grown(source, { columns, metrics, events, status }) {
  const last = (/** @type {import("./types.js").Column | undefined} */ column) => column?.findLast((value) => value !== null) ?? null;
  /** @type {Record<string, any>} */
  const fresh = {
    batch: last(columns.batch), epoch: last(columns.epoch), step: last(columns.step),
    rss_bytes: last(metrics["rss_bytes"]), swap_bytes: last(metrics["swap_bytes"]), limit_bytes: last(metrics["limit_bytes"]),
    working_set_bytes: last(metrics["working_set_bytes"]),
    limit_kind: events?.findLast((event) => event.kind === "limit")?.detail["kind"] ?? null, status: status ?? null,
    peak_bytes: Math.max(source.peak_bytes ?? 0, ...(metrics["peak_bytes"] ?? []).map(Number)) || null,
  };
  const known = Object.fromEntries(Object.entries(fresh).filter(([, value]) => value !== null));
  const next = /** @type {SourceDetail} */ ({ ...source, ...known });
  const { limit_bytes: limit, working_set_bytes: used } = next;
  return { ...next, headroom_bytes: limit == null || used == null ? (next.headroom_bytes ?? null) : limit - used };
}

/**
 * What is wrong now: a source that hangs, else one whose memory is critical; of several, the first in order.
 *
 * @param {RunDetail} detail
 * @returns {Trouble | null}
 */
export function troubleOf(detail) {
  if (detail.state !== "live") return null;
  const sources = inOrder(detail).filter((source) => !source.state || source.state === "live");
  for (const source of sources) {
    const since_ms = source.status?.hung_since_ms ?? null;
    if (since_ms !== null) return { kind: "hung", source, since_ms, detail: latest(detail, source, ["hang"])?.detail ?? {} };
  }
  for (const source of sources) {
    const event = latest(detail, source, ["critical", "clear"]);
    if (event?.kind === "critical") return { kind: "critical", source, since_ms: event.time_ms, detail: event.detail };
  }
  return null;
}

/**
 * @param {RunDetail} detail
 * @param {SourceDetail} source
 * @param {string[]} kinds
 */
function latest({ events }, source, kinds) {
  return events.findLast((event) => event.source === source.id && kinds.includes(event.kind));
}

/**
 * Whether batches can be counted: a command that is watched from outside has none to see.
 *
 * @param {SourceDetail | null} source
 */
export function hasBatches(source) {
  return !source || source.batch !== null || !(source.kind === "run" || source.kind === "attach");
}

/**
 * The verdict to show with a source: its own, or the run's.
 *
 * @param {RunDetail} detail
 * @param {string | null} id
 * @returns {import("./types.js").Verdict | null}
 */
export function verdictOf(detail, id) {
  return detail.sources_detail.find((source) => source.id === id)?.verdict ?? detail.verdict ?? null;
}

/**
 * Whether a summary tells what only a new look at the run's details can complete: another end, or another source.
 *
 * @param {RunDetail} detail
 * @param {RunSummary} summary
 */
export function isNews(detail, summary) {
  const said = (/** @type {RunSummary} */ { verdict, state }) => [state, verdict?.source, verdict?.ending, verdict?.grade, verdict?.inferred].join(" ");
  return said(detail) !== said(summary) || detail.sources !== summary.sources;
}

/**
 * A summary over the details: its verdict lacks the agent's whole report, which stays while it is the same verdict.
 *
 * @param {RunDetail} detail
 * @param {RunSummary} summary
 * @returns {RunDetail}
 */
export function merged(detail, summary) {
  const { verdict } = summary;
  const same = verdict && detail.verdict && !isNews(detail, summary);
  return { ...detail, ...summary, verdict: same ? { ...verdict, ...(detail.verdict?.detail && { detail: detail.verdict.detail }) } : verdict ?? null };
}
