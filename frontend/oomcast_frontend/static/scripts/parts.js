/** The parts that figures are made of: axes, lines and bands (pure). */

import { fraction } from "./marks.js";
import { nearest, windowStart, xs } from "./series.js";
import { WINDOWS_MS } from "./store.js";
import { STRINGS } from "./strings.js";
import { batchTicks, timeTicks } from "./ticks.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./types.js").RunEvent} RunEvent
 * @typedef {import("./types.js").Range} Range
 * @typedef {import("./types.js").Palette} Palette
 * @typedef {import("./ticks.js").Ticks} Ticks
 *
 * @typedef {{width: number, height: number}} Size
 *
 * @typedef {object} Given
 * @property {Series} series
 * @property {Range} range of x to draw
 * @property {boolean} zoomed the reader asked for a detail: fit y to it
 * @property {Palette} palette
 * @property {Size} size
 * @property {string | null} limitKind
 * @property {RunEvent[]} events
 * @property {number | null} device the GPU to draw; null: the first
 *
 * @typedef {{at: number, text: string, above: boolean, right: boolean}} Label at: 0 (top of the plot) to 1
 *
 * @typedef {object} Figure
 * @property {object[]} traces
 * @property {object} layout
 * @property {Column} x of the points under the crosshair
 * @property {string | null} empty what to say instead, where there is nothing to draw
 * @property {Label | null} limit
 * @property {Label | null} cap a second, softer one
 * @property {{x: number, y: number} | null} dot the newest value
 *
 * @typedef {{from: number, to: number, ticks: Ticks, domain?: Range}} YAxis
 */

/** The plot's margins: fixed, so that the crosshair needs no knowledge of Plotly's insides. */
export const MARGIN = { left: 72, right: 16, top: 6, bottom: 24 };
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
/** Unseen ticks keep the labels off the plot. */
const STANDOFF = { ticks: "outside", ticklen: 6, tickcolor: "rgba(0,0,0,0)" };
/** One sample is no stretch: what to draw around it. */
const SHORTEST = { batch: 1, time: 1000 };

/**
 * The stretch of x that is drawn: what the reader zoomed to, or the window that follows the newest sample.
 *
 * @param {Series} series
 * @param {import("./store.js").View} view
 * @returns {Range}
 */
export function drawnRange(series, view) {
  if (view.range && view.x === series.x) return view.range;
  const x = xs(series);
  const last = x.at(-1) ?? 0;
  const start = view.window === "all" ? null : windowStart(series, WINDOWS_MS[view.window]);
  const first = start ?? x.find((value) => value !== null) ?? 0;
  return [first, Math.max(last, first + SHORTEST[series.x])];
}

/**
 * @param {Given} given
 * @param {object[]} traces
 * @param {YAxis[]} axes
 * @param {Column} x
 * @returns {Figure}
 */
export function drawn(given, traces, axes, x) {
  const [from, to] = visible(x, given.range);
  const empty = x.length === 0 || to < from ? STRINGS.chart.nothing : null;
  return { traces, layout: layoutOf(given, axes), x, empty, limit: null, cap: null, dot: null };
}

/**
 * @param {string} empty
 * @returns {Figure}
 */
export function nothing(empty) {
  return { traces: [], layout: {}, x: [], empty, limit: null, cap: null, dot: null };
}

/**
 * @param {Given} given
 * @param {YAxis[]} axes
 */
function layoutOf({ series, range, palette, size }, axes) {
  const wide = series.x === "time" || size.width > 600;
  const count = Math.max(2, Math.floor((size.width - MARGIN.left - MARGIN.right) / (wide ? 90 : 64)));
  const ticks = series.x === "batch" ? batchTicks(...range, count) : timeTicks(...range, count);
  const plain = { zeroline: false, showline: false, fixedrange: true, automargin: false, tickmode: "array", ...STANDOFF };
  /** @type {Record<string, unknown>} */
  const layout = {
    width: size.width, height: size.height, autosize: false, showlegend: false, hovermode: false, dragmode: false,
    margin: { l: MARGIN.left, r: MARGIN.right, t: MARGIN.top, b: MARGIN.bottom, pad: 0 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: FONT, size: 12, color: palette["ink-3"] },
    xaxis: { ...plain, type: "linear", range, showgrid: false, tickvals: ticks.values, ticktext: ticks.texts, tickangle: 0, anchor: axes.length > 1 ? "y2" : "y" },
  };
  axes.forEach((axis, index) => {
    layout[index === 0 ? "yaxis" : `yaxis${index + 1}`] = {
      ...plain, type: "linear", range: [axis.from, axis.to], domain: axis.domain ?? [0, 1],
      tickvals: axis.ticks.values, ticktext: axis.ticks.texts, showgrid: true, gridcolor: palette["grid"], gridwidth: 1,
    };
  });
  return layout;
}

/**
 * @param {Column} x
 * @param {Column} y
 * @param {string} colour
 * @param {{width: number, dash?: string, shape?: string, fill?: number, axis?: number}} style
 */
export function line(x, y, colour, { width, dash = "solid", shape = "linear", fill, axis }) {
  return {
    type: "scatter", mode: "lines", x, y, connectgaps: false, hoverinfo: "skip",
    line: { color: colour, width, dash, shape },
    ...(fill === undefined ? {} : { fill: "tozeroy", fillcolor: faded(colour, fill) }),
    ...(axis === undefined ? {} : { yaxis: `y${axis}` }),
  };
}

/**
 * The area between two columns, as closed outlines: one for each stretch without a hole. (Plotly's own "tonexty" draws
 * across holes.)
 *
 * @param {Column} x
 * @param {Column} low
 * @param {Column} high
 * @param {string} colour
 * @param {number} opacity
 */
export function band(x, low, high, colour, opacity) {
  /** @type {Column} */
  const outlineX = [];
  /** @type {Column} */
  const outlineY = [];
  let start = 0;
  for (let row = 0; row <= x.length; row += 1) {
    if (row < x.length && x[row] !== null && low[row] !== null && high[row] !== null) continue;
    if (row > start) {
      if (outlineX.length > 0) {
        outlineX.push(null);
        outlineY.push(null);
      }
      const across = x.slice(start, row);
      outlineX.push(...across, ...across.toReversed());
      outlineY.push(...high.slice(start, row), ...low.slice(start, row).toReversed());
    }
    start = row + 1;
  }
  return {
    type: "scatter", mode: "lines", x: outlineX, y: outlineY, connectgaps: false, hoverinfo: "skip",
    line: { width: 0 }, fill: "toself", fillcolor: faded(colour, opacity),
  };
}

/**
 * @param {Column} first
 * @param {Column} second
 * @returns {Column} the larger of both, row by row; the other where one is missing
 */
export function merge(first, second) {
  return first.map((value, row) => {
    const other = second[row];
    return value === null ? other : other === null ? value : Math.max(value, other);
  });
}

/**
 * @param {Column} x
 * @param {Range} range
 * @returns {Range} the first and the last row inside
 */
export function visible(x, range) {
  let from = nearest(x, range[0]);
  let to = nearest(x, range[1]);
  if (from >= 0 && (x[from] ?? -Infinity) < range[0]) from += 1;
  if (to >= 0 && (x[to] ?? Infinity) > range[1]) to -= 1;
  return [Math.max(from, 0), to];
}

/**
 * @param {Column[]} columns
 * @param {Range} rows
 * @returns {number | null}
 */
export function highest(columns, [from, to]) {
  let best = null;
  for (const column of columns) {
    const end = Math.min(to, column.length - 1);
    for (let row = from; row <= end; row += 1) {
      const value = column[row];
      if (value !== null && value !== undefined && (best === null || value > best)) best = value;
    }
  }
  return best;
}

/**
 * @param {Column} column
 * @param {Range} rows
 * @returns {number | null} the newest value there is
 */
export function latest(column, [from, to]) {
  for (let row = Math.min(to, column.length - 1); row >= from; row -= 1) {
    const value = column[row];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}

/**
 * @param {Column[]} columns
 * @param {Range} rows
 */
export function lowest(columns, rows) {
  const most = highest(columns.map((column) => column.map((value) => (value === null ? null : -value))), rows);
  return most === null ? null : -most;
}

/**
 * @param {Given} given
 * @param {Column} x
 * @param {Column} y
 * @param {YAxis} axis
 */
export function newest({ range }, x, y, axis) {
  const [at, value] = [x.at(-1) ?? null, y.at(-1) ?? null];
  if (at === null || value === null || at > range[1] || at < range[0]) return null;
  return { x: fraction(at, range), y: 1 - fraction(value, [axis.from, axis.to]) };
}

/**
 * @param {string} colour "rgb(r, g, b)", as the browser computes it
 * @param {number} opacity 0 to 1
 */
export function faded(colour, opacity) {
  const [red, green, blue] = colour.match(/\d+/g) ?? [];
  return `rgba(${red}, ${green}, ${blue}, ${opacity})`;
}
