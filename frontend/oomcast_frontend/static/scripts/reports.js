/** What an agent's report of an end says, put into the parts that the page shows (pure). Unknown keys are left alone. */

import { formatBytes, formatOrdinal } from "./format.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.verdict;

/**
 * @typedef {import("./types.js").Verdict} Verdict
 * @typedef {import("./types.js").Detail} Detail
 *
 * @typedef {object} Report
 * @property {{word: string, shape: string}} grade
 * @property {string[]} evidence
 * @property {string[]} advice sentences, with `code` in backticks
 * @property {{label: string, value: string}[]} facts
 * @property {string[]} processes
 */

/**
 * @param {Verdict} verdict
 * @returns {Report}
 */
export function reportOf(verdict) {
  const detail = verdict.detail ?? {};
  return {
    grade: { word: gradeOf(verdict), shape: wordIn(T.shape, verdict.grade) ?? T.shape.unknown },
    evidence: parts(detail["evidence"]).map(capital),
    advice: sentences(detail["advice"]),
    facts: factsOf(detail),
    processes: parts(detail["processes"]),
  };
}

/** @param {Verdict} verdict */
function gradeOf({ ending, grade, inferred, detail }) {
  const word = grade === "confirmed" && ending === "oom killed" ? T.kernel : (wordIn(T.grade, grade) ?? grade);
  const whose = inferred ? T.inferred : detail?.["inferred"] === 1 ? T.afterwards : null;
  return [word, whose].filter(Boolean).join(", ");
}

/**
 * The run with the figures of its shown source's end, which the agent looked at after the last sample.
 *
 * @template {import("./types.js").RunSummary} Run
 * @param {Run} run
 * @param {Verdict | null} verdict
 * @param {string | null} shown the source that the run is seen from
 * @returns {Run}
 */
export function atItsEnd(run, verdict, shown) {
  const { used_bytes: used, limit_bytes: limit, limit_kind } = verdict?.detail ?? {};
  if (verdict?.source !== shown || typeof used !== "number" || typeof limit !== "number") return run;
  return { ...run, working_set_bytes: used, limit_bytes: limit, headroom_bytes: limit - used, limit_kind: limit_kind == null ? run.limit_kind : String(limit_kind) };
}

/**
 * @param {Record<string, string>} words
 * @param {string} name
 * @returns {string | undefined}
 */
function wordIn(words, name) {
  return Object.hasOwn(words, name) ? words[name] : undefined;
}

/** @param {Detail} detail */
function factsOf(detail) {
  const number = (/** @type {string} */ name) => (typeof detail[name] === "number" ? Number(detail[name]) : null);
  const text = (/** @type {string} */ name) => (typeof detail[name] === "string" ? String(detail[name]) : null);
  const [used, limit, peak, growth] = ["used_bytes", "limit_bytes", "peak_bytes", "growth_bytes_per_batch"].map(number);
  const phase = text("phase");
  const ordinal = (/** @type {string} */ name, /** @type {(text: string) => string} */ say) => (number(name) === null ? null : say(formatOrdinal(number(name))));
  const reached = [ordinal("epoch", T.epoch), ordinal("batch", T.batch), phase && (wordIn(STRINGS.phase, phase) ?? phase)].filter(Boolean);
  /** @type {[string, string | null][]} */
  const facts = [
    [T.facts.used, used === null ? null : limit === null ? formatBytes(used) : T.usedOf(formatBytes(used), formatBytes(limit))],
    [T.facts.peak, peak === null ? null : formatBytes(peak)],
    [T.facts.growth, growth === null ? null : growth > 0 ? T.grew(formatBytes(growth)) : formatBytes(growth)],
    [T.facts.reached, reached.length > 0 ? reached.join(", ") : null],
    [T.facts.assessment, text("assessment")],
  ];
  return facts.flatMap(([label, value]) => (value === null ? [] : [{ label, value }]));
}

/** @param {string | number | null | undefined} list with "; " between its parts */
function parts(list) {
  return typeof list === "string" ? list.split("; ").map((part) => part.trim()).filter(Boolean) : [];
}

/** @param {string | number | null | undefined} text */
function sentences(text) {
  return typeof text === "string" ? text.split(/(?<=[.!?]) (?=[\p{Lu}`])/u).filter(Boolean) : [];
}

/** @param {string} text */
function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
