/** What ticks count, as shares and rates of time (pure). */

import { nearest, xs } from "./series.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Ticks} Ticks
 * @typedef {import("./types.js").Column} Column
 */

/** A tick counts since the one before it: a second, unless the agent itself was held up. */
const TICK_MS = 1000;
const SECOND_MS = 1000;
const MS_US = 1000;

/**
 * @param {Series} series
 * @returns {Column} the x value of each tick
 */
export function tickXs({ x, ticks }) {
  return x === "batch" ? ticks.columns.batch : ticks.columns.time_ms;
}

/**
 * The tick that belongs to a row: the nearest one; to the newest row the newest, since several may stand at one batch.
 *
 * @param {Series} series
 * @param {number} row
 * @returns {number} -1: there is none
 */
export function tickAt(series, row) {
  const at = tickXs(series);
  if (row >= series.columns.seq.length - 1) return at.length - 1;
  return nearest(at, xs(series)[row] ?? 0);
}

/**
 * What a tick counted, for each second of the time since the tick before.
 *
 * @param {Ticks} ticks
 * @param {string} name
 * @returns {Column} the largest of each bucket; null where it is not known
 */
export function perSecond({ columns, metrics }, name) {
  const metric = metrics[name];
  if (!metric) return columns.time_ms.map(() => null);
  // Between buckets lie several ticks, and each counted since the one before it.
  const bucketed = metric.max !== metric.last;
  return metric.max.map((count, row) => {
    const span_ms = row === 0 ? TICK_MS : columns.time_ms[row] - columns.time_ms[row - 1];
    return count === null || span_ms <= 0 ? null : (count * SECOND_MS) / (bucketed ? Math.min(span_ms, TICK_MS) : span_ms);
  });
}

/**
 * Time in µs that a tick counted, as a share of the time that it covers.
 *
 * @param {Ticks} ticks
 * @param {string} name
 * @returns {Column} 0 to 1
 */
export function shareOfTime(ticks, name) {
  return perSecond(ticks, name).map((us) => (us === null ? null : Math.min(1, us / (SECOND_MS * MS_US))));
}
