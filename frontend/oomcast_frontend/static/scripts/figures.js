/**
 * Samples in, figures out (pure): plain objects in Plotly's words, and the marks that the page lays over them. Nothing
 * here touches the DOM or Plotly. Colours come as a palette, sizes in pixels; y grows upwards from `bottom`.
 */

import { gpu } from "./devices.js";
import { formatBytes, shortLimit } from "./format.js";
import { fraction } from "./marks.js";
import { pressure, swap } from "./paging.js";
import { band, drawn, highest, latest, line, lowest, merge, newest, nothing, visible } from "./parts.js";
import { tickXs } from "./rates.js";
import { batchRows, picked, pickedX, tickRows, typical, unbroken } from "./rows.js";
import { xs } from "./series.js";
import { STRINGS } from "./strings.js";
import { byteTicks, countTicks, durationTicks } from "./ticks.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./types.js").Range} Range
 * @typedef {import("./parts.js").Given} Given
 * @typedef {import("./parts.js").Figure} Figure
 * @typedef {import("./parts.js").YAxis} YAxis
 */

/** The limit is drawn to scale once the data reach this share of it; below, it would press them flat. */
const LIMIT_IN_VIEW = 0.3;

/** @type {Record<string, (given: Given) => Figure>} */
export const FIGURES = { memory, duration, faults, swap, pressure, gpu };

/**
 * @param {Given} given
 * @returns {Figure}
 */
export function memory(given) {
  const { series, palette, range } = given;
  const { rss_bytes: rss, peak_bytes: peak, working_set_bytes: charged, limit_bytes: limit } = series.metrics;
  const rows = visible(xs(series), range);
  const children = childrenOf(given);
  const own = highest([rss.max, peak.max], rows);
  const workers = highest([children.y], visible(children.x, range));
  const all = most(highest([rss.max, peak.max, charged.last], rows), workers);
  const bound = latest(limit.last, rows);
  const scaled = bound !== null && !given.zoomed && (all ?? 0) >= LIMIT_IN_VIEW * bound;
  // Far from the limit, what others use of it is left out where it would press this process's own line flat.
  const together = scaled || (all ?? 0) <= 2 * (own ?? 0);
  const high = together ? all : most(own, workers);
  const y = memoryAxis(given, rows, high, scaled ? bound : null);
  const order = unbroken(given);
  const x = pickedX(xs(series), order);
  const top = merge(peak.max, rss.max);
  const anonymous = series.metrics["anonymous_bytes"]?.last ?? [];
  const traces = [
    ...(anonymous.some((value) => value !== null) ? [band(x, order.map(() => 0), picked(anonymous, order), palette["rss"], 0.12)] : []),
    band(x, picked(rss.min, order), picked(top, order), palette["peak"], 0.55),
    ...(together ? [line(x, picked(charged.last, order), palette["ink-3"], chargedStyle(given))] : []),
    ...((workers ?? 0) > 0 ? [line(children.x, children.y, palette["children"], { width: 1.6 })] : []),
    line(x, picked(rss.last, order), palette["rss"], { width: 2 }),
    line(x, picked(limit.last, order), palette["limit"], { width: 1, dash: "6px 5px", shape: "hv" }),
  ];
  const figure = drawn(given, traces, [y], x);
  const name = given.limitKind === null ? STRINGS.chart.aLimit : shortLimit(given.limitKind);
  const inside = bound !== null && bound >= y.from && bound <= y.to;
  return {
    ...figure,
    limit: bound === null ? null : {
      at: inside ? 1 - fraction(bound, [y.from, y.to]) : 0, above: !inside, right: crossesAtLeft(top, rows, bound, y),
      text: (inside ? STRINGS.chart.limit : bound > y.to ? STRINGS.chart.limitAbove : STRINGS.chart.limitBelow)(name, formatBytes(bound)),
    },
    dot: newest(given, xs(series), rss.last, y),
  };
}

/**
 * @param {number | null} first
 * @param {number | null} second
 */
function most(first, second) {
  return first === null || second === null ? (first ?? second) : Math.max(first, second);
}

/**
 * What the children hold, as the agent's clock saw it.
 *
 * @param {Given} given
 * @returns {{x: Column, y: Column}}
 */
function childrenOf(given) {
  const order = tickRows(given);
  return { x: pickedX(tickXs(given.series), order), y: picked(given.series.ticks.metrics["children_rss_bytes"]?.max ?? [], order).map((value) => value ?? null) };
}

/**
 * Whether the line runs through the place where the limit's name stands by default: above the limit, at the left.
 *
 * @param {Column} column
 * @param {Range} rows
 * @param {number} bound
 * @param {YAxis} y
 */
function crossesAtLeft(column, [from, to], bound, y) {
  const third = column.slice(from, from + Math.ceil((to - from) / 3) + 1);
  return third.some((value) => value !== null && value >= bound && value < bound + 0.12 * (y.to - y.from));
}

/**
 * Under a limit of its own (a container's, say), what is charged is this training's, and what counts; under the host's
 * it is everybody's.
 *
 * @param {Given} given
 */
function chargedStyle({ limitKind }) {
  return limitKind === null || limitKind.startsWith("host") ? { width: 1.2, dash: "2px 3px" } : { width: 1.8 };
}

/**
 * From zero, as bytes should; but a zoom into a long flat stretch is there to see what moves in it.
 *
 * @param {Given} given
 * @param {Range} rows
 * @param {number | null} high
 * @param {number | null} limit
 * @returns {YAxis}
 */
function memoryAxis({ series, zoomed, size }, rows, high, limit) {
  const count = size.height < 200 ? 3 : 5;
  const to = Math.max((high ?? 0) * 1.1, (limit ?? 0) * 1.12, 1024 * 1024);
  const low = zoomed ? lowest([series.metrics.rss_bytes.min], rows) : null;
  if (low === null || high === null || high - low > 0.5 * high) return { from: 0, to, ticks: byteTicks(0, to, count) };
  const pad = Math.max((high - low) * 0.15, 64 * 1024);
  return { from: low - pad, to: high + pad, ticks: byteTicks(low - pad, high + pad, count) };
}

/**
 * @param {Given} given
 * @returns {Figure}
 */
export function duration(given) {
  const { series, palette } = given;
  const metric = series.metrics.duration_ns;
  const order = batchRows(given, metric);
  const per = (/** @type {Column} */ column) => picked(column, order);
  const x = pickedX(xs(series), order);
  const [last, min, max] = [per(typical(metric)), per(metric.min), per(metric.max)];
  const to = Math.max((highest([max], visible(x, given.range)) ?? 0) * 1.12, 1000);
  const spread = series.bucket > 1 ? [band(x, min, max, palette["time"], 0.22)] : [];
  const traces = [...spread, line(x, last, palette["time"], { width: 1.4 })];
  return drawn(given, traces, [{ from: 0, to, ticks: durationTicks(to, 3) }], x);
}

/**
 * Minor faults come in thousands where one major fault matters: each has its own scale, one above the other.
 *
 * @param {Given} given
 * @returns {Figure}
 */
export function faults(given) {
  const { series, palette } = given;
  const { minor_faults: minor, major_faults: major } = series.metrics;
  const order = batchRows(given, minor);
  const x = pickedX(xs(series), order);
  const rows = visible(x, given.range);
  const [minors, majors] = [picked(minor.max, order), picked(major.max, order)];
  if (order.length > 0 && [...minors, ...majors].every((value) => value === null)) return nothing(STRINGS.chart.noFaults);
  const upper = (highest([minors], rows) ?? 0) * 1.12 || 1;
  const lower = (highest([majors], rows) ?? 0) * 1.12 || 1;
  return drawn(given, [
    line(x, minors, palette["minor"], { width: 1.4, fill: 0.18 }),
    line(x, majors, palette["major"], { width: 1.4, fill: 0.25, axis: 2 }),
  ], [
    { from: 0, to: upper, ticks: countTicks(upper, 2), domain: [0.58, 1] },
    { from: 0, to: lower, ticks: countTicks(lower, 2), domain: [0, 0.38] },
  ], x);
}
