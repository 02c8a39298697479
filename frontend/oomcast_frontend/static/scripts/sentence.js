/** The one sentence that says plainly how a run stands (pure). */

import { formatBytes, formatOrdinal, formatShare, formatSpan } from "./format.js";
import { STRINGS } from "./strings.js";

/** Less than this share of the limit free is worth a colour. */
export const LITTLE_FREE = 0.1;
const LONGEST_MESSAGE = 140;
/** A text up to here stands on top as a whole; of a longer one, its first sentence does. */
const LONGEST_LEAD = 90;

/**
 * @typedef {import("./types.js").RunSummary} RunSummary
 * @typedef {{text: string, rest: string | null, more: string | null}} Said rest: what follows in smaller type; more: the whole of a text that was cut
 */

/**
 * @param {RunSummary} run
 * @param {number} now_ms of the server's clock
 * @param {import("./sources.js").Trouble | null} [trouble]
 * @returns {Said}
 */
export function sentence(run, now_ms, trouble = null) {
  if (run.verdict && !isPlainEnd(run)) return judged(run);
  if (trouble) return plain(of(trouble.source, run, (trouble.kind === "hung" ? hung : critical)(trouble, run, now_ms)));
  if (run.state === "failed") return failed(run);
  const say = { live: using, silent: () => silent(run, now_ms), finished, stopped, died }[run.state];
  return plain(say(run));
}

/**
 * @param {string} text
 * @returns {Said}
 */
function plain(text) {
  return { text, rest: null, more: null };
}

/**
 * Whether it ended as it should, so that a verdict has nothing to add.
 *
 * @param {RunSummary} run
 */
export function isPlainEnd({ state, verdict }) {
  return state === "finished" && (!verdict || verdict.grade === "confirmed");
}

/**
 * @param {RunSummary & {sources_detail?: import("./types.js").SourceDetail[]}} run
 * @returns {Said}
 */
function judged(run) {
  const { verdict, state } = run;
  if (!verdict) return plain("");
  if (state === "failed" && verdict.ending === "exception" && run.outcome) return failed(run);
  const text = state === "failed" ? cut(verdict.text) : halved(verdict.text);
  const source = run.sources_detail?.find((one) => one.id === verdict.source);
  // That it was inferred stands with its grade.
  return { ...text, text: of(source, run, text.text), rest: verdict.inferred ? null : text.rest };
}

/**
 * What is said of one of several sources, with its name.
 *
 * @param {import("./types.js").SourceDetail | undefined} source
 * @param {RunSummary} run
 * @param {string} text
 */
function of(source, run, text) {
  if (!source || (run.sources ?? 1) < 2) return text;
  return STRINGS.sentence.of(STRINGS.source.short(source.host, source.rank), text);
}

/**
 * @param {string} text
 * @returns {Said}
 */
function halved(text) {
  const [, first, rest] = /^(.*?[.!?]) (\p{Lu}.*)$/su.exec(text) ?? [];
  return text.length <= LONGEST_LEAD || !first ? plain(text) : { text: first, rest, more: null };
}

/**
 * @param {import("./sources.js").Trouble} trouble
 * @param {RunSummary} run
 * @param {number} now_ms
 */
function hung({ since_ms, detail }, run, now_ms) {
  const span = formatSpan(now_ms - since_ms);
  // What the agent said of it is as old as its event; the time has grown since.
  return typeof detail["text"] === "string" ? detail["text"].replace(/\bfor \d+ s\b/, `for ${span}`) : STRINGS.sentence.hung(span);
}

/**
 * As it stands now, where the figures of now are those of the same limit; else as it stood when the level was crossed.
 *
 * @param {import("./sources.js").Trouble} trouble
 */
function critical({ source, detail }) {
  const number = (/** @type {string} */ name) => (typeof detail[name] === "number" ? Number(detail[name]) : null);
  const spike = number("spike_bytes") ?? 0;
  const now = source.limit_kind === detail["limit_kind"] && source.headroom_bytes != null ? source.headroom_bytes - spike : null;
  const [left, limit] = [now ?? number("headroom_bytes"), number("limit_bytes")];
  if (left === null || limit === null) return typeof detail["text"] === "string" ? detail["text"] : STRINGS.sentence.criticalBare;
  const say = left < 0 ? STRINGS.sentence.criticalOver : STRINGS.sentence.critical;
  return say(formatBytes(Math.abs(left)), formatBytes(limit), spike > 0);
}

/**
 * That another source has a smaller share of its limit left.
 *
 * @param {import("./types.js").Tightest} tightest
 */
export function tighterOf({ host, rank, headroom_share }) {
  const who = STRINGS.source.short(host, rank);
  return headroom_share < 0 ? STRINGS.runs.tighterOver(who) : STRINGS.runs.tighter(who, formatShare(headroom_share));
}

/** @param {{headroom_bytes: number | null, limit_bytes: number | null} | null | undefined} run */
export function hasLittleFree(run) {
  return !!run && run.headroom_bytes !== null && run.limit_bytes !== null && run.headroom_bytes < LITTLE_FREE * run.limit_bytes;
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

/**
 * @param {RunSummary} run
 * @returns {Said}
 */
function failed({ outcome }) {
  const whole = [outcome?.type, outcome?.message].filter(Boolean).join(": ");
  if (!whole) return plain(STRINGS.sentence.failedBare);
  const said = cut(whole);
  return { ...said, text: STRINGS.sentence.failed(said.text) };
}

/**
 * @param {string} whole
 * @returns {Said} its first line, if that is not too long
 */
function cut(whole) {
  const line = whole.split("\n", 1)[0].trim();
  const text = line.length > LONGEST_MESSAGE ? `${line.slice(0, LONGEST_MESSAGE - 1).trimEnd()}…` : line;
  return { text, rest: null, more: text === whole ? null : whole };
}
