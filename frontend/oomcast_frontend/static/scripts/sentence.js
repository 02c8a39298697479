/** The one sentence that says plainly how a run stands (pure). */

import { formatBytes, formatOrdinal, formatSpan } from "./format.js";
import { STRINGS } from "./strings.js";

/** Less than this share of the limit free is worth a colour. */
export const LITTLE_FREE = 0.1;
const LONGEST_MESSAGE = 140;

/**
 * @typedef {import("./types.js").RunSummary} RunSummary
 */

/**
 * @param {RunSummary} run
 * @param {number} now_ms of the server's clock
 * @returns {{text: string, more: string | null}} more: the whole of an exception's text, where the sentence cut it
 */
export function sentence(run, now_ms) {
  if (run.state === "failed") return failed(run);
  const say = { live: using, silent: () => silent(run, now_ms), finished, stopped, died }[run.state];
  return { text: say(run), more: null };
}

/** @param {RunSummary} run */
export function hasLittleFree(run) {
  return run.headroom_bytes !== null && run.limit_bytes !== null && run.headroom_bytes < LITTLE_FREE * run.limit_bytes;
}

/** @param {RunSummary} run */
function using({ working_set_bytes, limit_bytes, headroom_bytes, rss_bytes }) {
  if (working_set_bytes !== null && limit_bytes !== null && headroom_bytes !== null) {
    const [used, limit, free] = [working_set_bytes, limit_bytes, Math.abs(headroom_bytes)].map((bytes) => formatBytes(bytes));
    if (headroom_bytes < 0) return STRINGS.sentence.over(used, limit, free);
    // Where most of what is charged belongs to others, "using" would be taken for this training's own.
    if (rss_bytes !== null && rss_bytes < working_set_bytes / 2) return STRINGS.sentence.sharing(formatBytes(rss_bytes), limit, free);
    return STRINGS.sentence.using(used, limit, free);
  }
  const used = rss_bytes ?? working_set_bytes;
  return used === null ? STRINGS.sentence.waiting : STRINGS.sentence.usingOnly(formatBytes(used));
}

/**
 * @param {RunSummary} run
 * @param {number} now_ms
 */
function silent(run, now_ms) {
  const used = run.working_set_bytes ?? run.rss_bytes;
  const last =
    used === null ? ""
    : run.headroom_bytes === null ? STRINGS.sentence.lastUsingOnly(formatBytes(used))
    : STRINGS.sentence.lastUsing(formatBytes(used), formatBytes(Math.max(0, run.headroom_bytes)));
  return STRINGS.sentence.silent(formatSpan(now_ms - (run.last_ms ?? run.created_ms)), last).trim();
}

/** @param {RunSummary} run */
function finished(run) {
  return STRINGS.sentence.finished(run.epoch === null ? null : run.epoch + 1, formatBytes(run.peak_bytes ?? run.rss_bytes));
}

/** @param {RunSummary} run */
function stopped(run) {
  return run.outcome?.message || STRINGS.sentence.stopped;
}

/** @param {RunSummary} run */
function died(run) {
  if (run.outcome?.message) return run.outcome.message;
  const free = run.headroom_bytes === null ? null : formatBytes(Math.max(0, run.headroom_bytes));
  return STRINGS.sentence.died(run.batch === null ? null : formatOrdinal(run.batch), free);
}

/** @param {RunSummary} run */
function failed({ outcome }) {
  const whole = [outcome?.type, outcome?.message].filter(Boolean).join(": ");
  if (!whole) return { text: STRINGS.sentence.failedBare, more: null };
  const line = whole.split("\n", 1)[0].trim();
  const short = line.length > LONGEST_MESSAGE ? `${line.slice(0, LONGEST_MESSAGE - 1).trimEnd()}…` : line;
  return { text: STRINGS.sentence.failed(short), more: short === whole ? null : whole };
}

/**
 * What the verdict rests on, in one line; null while the run lives, or where there is no more than the sentence says.
 *
 * @param {RunSummary & {events?: import("./types.js").RunEvent[]}} run
 * @returns {string | null}
 */
export function evidenceOf({ state, events = [] }) {
  const end = state === "died" ? events.findLast((event) => event.kind === "end") : undefined;
  const evidence = end?.detail["evidence"];
  return typeof evidence === "string" && evidence ? STRINGS.sentence.because(evidence) : null;
}
