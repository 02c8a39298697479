/** The pictures of what memory's shortage costs (pure): swap, and the time that tasks stood still. */

import { highest, drawn, line, merge, nothing, visible } from "./parts.js";
import { perSecond, shareOfTime, tickXs } from "./rates.js";
import { picked, pickedX, tickRows, unbroken } from "./rows.js";
import { xs } from "./series.js";
import { STRINGS } from "./strings.js";
import { byteTicks, rateTicks, shareTicks } from "./ticks.js";

/**
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./parts.js").Given} Given
 * @typedef {import("./parts.js").Figure} Figure
 */

const LEAST_BYTES = 1024 * 1024;
/** Less than this share of the time is nothing to see: an axis up to here shows it as what it is. */
const LEAST_SHARE = 0.05;

/**
 * How much lies in swap above, how much is moved below: each has its own scale.
 *
 * @param {Given} given
 * @returns {Figure}
 */
export function swap(given) {
  const { series, palette, range } = given;
  const used = series.metrics["swap_bytes"]?.max ?? [];
  const { ticks } = series;
  const children = ticks.metrics["children_swap_bytes"]?.max ?? [];
  const [into, out] = ["swap_in_bytes", "swap_out_bytes"].map((name) => perSecond(ticks, name));
  const none = (/** @type {Column[]} */ ...columns) => columns.every((column) => column.every((value) => value === null));
  if (used.length > 0 && none(used, children, into, out)) return nothing(STRINGS.chart.noSwap);
  const order = unbroken(given);
  const tickOrder = tickRows(given);
  const x = pickedX(xs(series), order);
  const tickX = pickedX(tickXs(series), tickOrder);
  const seen = (/** @type {Column[]} */ ...columns) => highest(columns, visible(tickXs(series), range)) ?? 0;
  const to = Math.max(highest([used], visible(xs(series), range)) ?? 0, seen(children), LEAST_BYTES) * 1.12;
  const held = [line(x, picked(used, order), palette["swap"], { width: 2, fill: 0.12 })];
  if (seen(children) > 0) held.push(line(tickX, picked(children, tickOrder), palette["children"], { width: 1.6 }));
  if (none(into, out)) return drawn(given, held, [{ from: 0, to, ticks: byteTicks(0, to, 3) }], x);
  const fastest = Math.max(seen(into, out), LEAST_BYTES) * 1.12;
  return drawn(given, [
    ...held,
    line(tickX, picked(out, tickOrder), palette["swap-out"], { width: 1.2, fill: 0.14, axis: 2 }),
    line(tickX, picked(into, tickOrder), palette["major"], { width: 1.4, fill: 0.18, axis: 2 }),
  ], [
    { from: 0, to, ticks: byteTicks(0, to, 2), domain: [0.52, 1] },
    { from: 0, to: fastest, ticks: rateTicks(fastest, 2), domain: [0, 0.36] },
  ], x);
}

/**
 * The share of time in which some task, and in which every task, stood still for want of memory.
 *
 * @param {Given} given
 * @returns {Figure}
 */
export function pressure(given) {
  const { series, palette } = given;
  const [some, full] = ["psi_some_us", "psi_full_us"].map((name) => shareOfTime(series.ticks, name));
  if (merge(some, full).every((value) => value === null)) return nothing(some.length > 0 ? STRINGS.chart.noPressure : STRINGS.chart.noTicks);
  const order = tickRows(given);
  const x = pickedX(tickXs(series), order);
  const to = Math.min(1, Math.max(highest([some, full], visible(tickXs(series), given.range)) ?? 0, LEAST_SHARE) * 1.12);
  return drawn(given, [
    line(x, picked(some, order), palette["some"], { width: 1.4, fill: 0.2 }),
    line(x, picked(full, order), palette["stall"], { width: 1.8, fill: 0.3 }),
  ], [{ from: 0, to, ticks: shareTicks(to, 3) }], x);
}
