/** What stands on the x axis besides the samples: where epochs begin, and flags for what happened once (pure). */

import { formatOrdinal } from "./format.js";
import { xs } from "./series.js";
import { STRINGS } from "./strings.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").RunEvent} RunEvent
 * @typedef {import("./types.js").Range} Range
 * @typedef {{at: number, text: string, tick: boolean}} EpochMark at: 0 (left) to 1 (right) of the plot
 * @typedef {"notice" | "critical" | "plain"} Tone
 * @typedef {{at: number, text: string, tone: Tone, label: string, left: boolean}} Flag label: beside it, where there is room; left: of it
 */

const EPOCH_LABEL_PX = 64;
/** Ticks closer than this would run into one grey bar. */
const TICK_PX = 4;
const FLAG_PX = 14;
const LETTER_PX = 7;
/** @type {Record<string, Tone>} */
const TONES = {
  notice: "notice", gap: "notice", limit: "notice", exception: "critical", end: "plain", child: "critical", hang: "critical",
  resume: "plain", agent: "notice", critical: "critical", clear: "plain", action: "notice", gpu_fault: "critical",
};

/**
 * A mark at the first sample of each epoch. Where they stand too close, every second, fifth, … keeps its label.
 *
 * @param {Series} series
 * @param {Range} range of x that is drawn
 * @param {number} width_px
 * @returns {EpochMark[]}
 */
export function epochMarks(series, range, width_px) {
  const x = xs(series);
  /** @type {{x: number, epoch: number, tick: boolean}[]} */
  const starts = [];
  /** @type {number | null} */
  let last = null;
  series.columns.epoch.forEach((epoch, row) => {
    const here = x[row];
    if (epoch === null || here === null || here > range[1]) return;
    const begins = epoch !== last;
    last = epoch;
    if (!begins) return;
    // An epoch that began left of the picture keeps its name at the edge, without a tick.
    if (here < range[0]) starts.splice(0, starts.length, { x: range[0], epoch, tick: false });
    else starts.push({ x: here, epoch, tick: true });
  });
  const [edge, next] = starts;
  if (edge && next && !edge.tick && fraction(next.x, range) * width_px < EPOCH_LABEL_PX) starts.shift();
  return labelled(starts.map((start) => ({ ...start, at: fraction(start.x, range) })), width_px);
}

/**
 * @param {{at: number, epoch: number, tick: boolean}[]} starts
 * @param {number} width_px
 * @returns {EpochMark[]}
 */
function labelled(starts, width_px) {
  const every = sparse(starts.length, width_px);
  let free_px = -Infinity;
  const marks = starts.map(({ at, epoch, tick }, index) => {
    const px = at * width_px;
    const named = (index === 0 || (epoch + 1) % every === 0) && px >= free_px && px <= width_px - EPOCH_LABEL_PX / 2;
    if (named) free_px = px + EPOCH_LABEL_PX;
    return { at, tick, text: named ? STRINGS.chart.epoch(formatOrdinal(epoch)) : "" };
  });
  return marks.length * TICK_PX < width_px ? marks : marks.filter((mark) => mark.text);
}

/**
 * @param {number} count
 * @param {number} width_px
 * @returns {number} 1, 2, 5, 10, …: of how many epochs one can be named
 */
function sparse(count, width_px) {
  const need = (count * EPOCH_LABEL_PX) / Math.max(width_px, 1);
  for (let power = 1; ; power *= 10) {
    const step = [1, 2, 5].find((factor) => factor * power >= need);
    if (step) return step * power;
  }
}

/**
 * @param {RunEvent[]} events of all sources
 * @param {Series} series
 * @param {Range} range
 * @param {number} width_px
 * @returns {Flag[]}
 */
export function flags(events, series, range, width_px) {
  const shown = events.filter((event) => event.source === series.source && isWorthAFlag(event, events));
  const newest = xs(series).at(-1) ?? 0;
  /** @type {Flag[]} */
  const found = [];
  for (const event of shown) {
    const x = series.x === "batch" ? (event.batch ?? 0) : event.time_ms;
    // What came after the newest sample (an end, mostly) belongs to the right edge of a picture that reaches it.
    const at = range[1] >= newest ? Math.min(1, fraction(x, range)) : fraction(x, range);
    if (at >= 0 && at <= 1) found.push({ at, text: describe(event), tone: toneOf(event), label: nameOf(event.kind), left: false });
  }
  return named(merged(found.sort((a, b) => a.at - b.at), width_px), width_px);
}

/**
 * @param {RunEvent} event
 * @param {RunEvent[]} events
 */
function isWorthAFlag(event, events) {
  if (!(event.kind in TONES)) return false;
  // The first limit is what the run began with, not a change.
  return event.kind !== "limit" || events.some((other) => other.kind === "limit" && other.source === event.source && other.seq < event.seq);
}

/** @param {RunEvent} event */
function toneOf({ kind, detail }) {
  return kind === "end" && detail.outcome === "died" ? "critical" : TONES[kind];
}

/** @param {string} kind */
function nameOf(kind) {
  return /** @type {Record<string, string>} */ (/** @type {unknown} */ (STRINGS.event))[kind];
}

/** @param {RunEvent} event */
function describe({ kind, detail }) {
  const what = nameOf(kind);
  const parts = {
    exception: [detail.type, detail.message],
    end: [detail.text ?? detail.outcome, detail.evidence],
    limit: [detail.kind],
    gap: [detail.reason],
  }[kind] ?? [detail.text];
  return STRINGS.event.text(what, parts.filter((part) => part !== null && part !== undefined && part !== "").map((part) => String(part).replace(/\.$/, "")).join(": "));
}

/**
 * Flags that would cover each other become one, which keeps the gravest tone.
 *
 * @param {Flag[]} sorted
 * @param {number} width_px
 */
function merged(sorted, width_px) {
  /** @type {Flag[]} */
  const kept = [];
  for (const flag of sorted) {
    const before = kept.at(-1);
    if (!before || (flag.at - before.at) * width_px >= FLAG_PX) kept.push({ ...flag });
    else {
      before.text = `${before.text}\n${flag.text}`;
      before.label = "";
      if (flag.tone === "critical") before.tone = "critical";
    }
  }
  return kept;
}

/**
 * Keeps the names of flags for which there is room, beside the flag or, at the right edge, before it.
 *
 * @param {Flag[]} kept
 * @param {number} width_px
 */
function named(kept, width_px) {
  let free_px = 0;
  return kept.map((flag, index) => {
    const px = flag.at * width_px;
    const need = flag.label.length * LETTER_PX + FLAG_PX;
    const next_px = (kept[index + 1]?.at ?? Infinity) * width_px - FLAG_PX;
    const fits = px + need <= Math.min(next_px, width_px);
    const left = !fits && px - need >= free_px;
    free_px = px + (fits ? need : FLAG_PX);
    return fits || left ? { ...flag, left } : { ...flag, label: "" };
  });
}

/**
 * @param {number} x
 * @param {Range} range
 */
export function fraction(x, range) {
  return range[1] > range[0] ? (x - range[0]) / (range[1] - range[0]) : 0;
}
