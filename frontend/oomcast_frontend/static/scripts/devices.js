/** One GPU's picture (pure): tensors, the allocator's pool around them, and what else the device is used for. */

import { formatBytes } from "./format.js";
import { fraction } from "./marks.js";
import { drawn, highest, latest, line, nothing, visible } from "./parts.js";
import { nearest } from "./series.js";
import { STRINGS } from "./strings.js";
import { byteTicks } from "./ticks.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./types.js").GpuColumns} GpuColumns
 * @typedef {Exclude<keyof GpuColumns, "device" | "time_ms" | "batch">} Figure of a device
 * @typedef {import("./parts.js").YAxis} YAxis
 */

/** Totals are drawn to scale once the data reach this share of them; below, they would press the lines flat. */
const TOTAL_IN_VIEW = 0.3;

/**
 * @param {Series} series
 * @returns {GpuColumns[]} those that have told anything
 */
export function devicesOf({ gpus }) {
  return gpus.filter((gpu) => gpu.time_ms.length > 0);
}

/**
 * @param {Series} series
 * @param {number | null} device null: the first
 */
export function deviceOf(series, device) {
  const devices = devicesOf(series);
  return devices.find((gpu) => gpu.device === device) ?? devices[0] ?? null;
}

/**
 * @param {Series} series
 * @param {GpuColumns} gpu
 */
export function deviceXs({ x }, gpu) {
  return x === "batch" ? gpu.batch : gpu.time_ms;
}

/**
 * A figure where it is known: the device's readings have none of the allocator's figures, and the other way round, so
 * that what is missing in between is no hole.
 *
 * @param {Column} x
 * @param {Column} column
 * @returns {{x: Column, y: Column}}
 */
export function known(x, column) {
  const rows = [...column.keys()].filter((row) => column[row] !== null && x[row] !== null);
  return { x: rows.map((row) => x[row]), y: rows.map((row) => column[row]) };
}

/**
 * How full a device is now: of the cap that its framework put on itself, where there is one.
 *
 * @param {GpuColumns} gpu
 * @returns {number | null} 0 to 1
 */
export function shareOf(gpu) {
  const now = (/** @type {Figure} */ name) => gpu[name].findLast((value) => value !== null) ?? null;
  const [used, total] = [now("used_bytes") ?? now("pool_bytes") ?? now("allocated_bytes"), now("total_bytes") ?? now("allocator_limit_bytes")];
  return used === null || !total ? null : used / total;
}

/**
 * @param {import("./parts.js").Given} given
 * @returns {import("./parts.js").Figure}
 */
export function gpu(given) {
  const { series, palette, range } = given;
  const device = deviceOf(series, given.device);
  if (!device) return nothing(STRINGS.chart.noGpu);
  const x = deviceXs(series, device);
  const of = (/** @type {Figure} */ name) => known(x, device[name]);
  const [used, pool, tensors, peak, own] = [of("used_bytes"), of("pool_bytes"), of("allocated_bytes"), of("allocated_peak_bytes"), of("process_bytes")];
  const [total, cap] = [of("total_bytes"), of("allocator_limit_bytes")];
  const now = (/** @type {{x: Column, y: Column}} */ { x: at, y: values }) => latest(values, visible(at, range)) ?? values.at(-1) ?? null;
  const high = Math.max(0, ...[used, pool, tensors, peak, own].map(({ x: at, y: values }) => highest([values], visible(at, range)) ?? 0));
  const bounds = [total, cap].map(now).filter((bound) => bound !== null && high >= TOTAL_IN_VIEW * bound).map(Number);
  const to = Math.max(high * 1.1, ...bounds.map((bound) => bound * 1.14), 1024 * 1024);
  const axis = { from: 0, to, ticks: byteTicks(0, to, given.size.height < 200 ? 3 : 5) };
  const trace = (/** @type {{x: Column, y: Column}} */ part, /** @type {string} */ colour, /** @type {Parameters<typeof line>[3]} */ style) =>
    (part.y.length > 0 ? [line(part.x, part.y, palette[colour], style)] : []);
  // From the widest to the narrowest: each lies in the one before.
  const traces = [
    ...trace(used, "ink-3", { width: 1.2, fill: 0.12 }),
    ...(pool.y.length > 0 ? trace(pool, "pool", { width: 1.2, fill: 0.25 }) : trace(own, "pool", { width: 1.2, fill: 0.25 })),
    ...trace(tensors, "gpu", { width: 2, fill: 0.25 }),
    ...trace(peak, "gpu", { width: 1 }),
    ...trace(total, "limit", { width: 1, shape: "hv" }),
    ...trace(cap, "limit", { width: 1, dash: "6px 5px", shape: "hv" }),
  ];
  return {
    ...drawn(given, traces, [axis], x.some((value) => value !== null) ? x.filter((value) => value !== null) : []),
    limit: label(now(total), axis, STRINGS.readout.total),
    cap: label(now(cap), axis, null),
  };
}

/**
 * @param {number | null} bound
 * @param {YAxis} axis
 * @param {string | null} name null: the framework's cap
 */
function label(bound, { from, to }, name) {
  if (bound === null) return null;
  const inside = bound <= to;
  const bytes = formatBytes(bound);
  const text = name === null ? STRINGS.chart.cap(bytes) : STRINGS.chart.limit(name, bytes);
  return { at: inside ? 1 - fraction(bound, [from, to]) : 0, text: inside ? text : `↑ ${text}`, above: !inside, right: false };
}

/**
 * A device's figures at x: each by its own nearest reading.
 *
 * @param {Series} series
 * @param {GpuColumns} device
 * @param {number | null} x null: the newest
 * @returns {Record<Figure, number | null> & {others_bytes: number | null}} others: use of the device beside the pool, or beside this process
 */
export function readingAt(series, device, x) {
  const at = deviceXs(series, device);
  const figure = (/** @type {Figure} */ name) => {
    const part = known(at, device[name]);
    return (x === null ? part.y.at(-1) : part.y[nearest(part.x, x)]) ?? null;
  };
  const names = /** @type {Figure[]} */ (Object.keys(device).filter((name) => !["device", "time_ms", "batch"].includes(name)));
  const found = /** @type {Record<Figure, number | null>} */ (Object.fromEntries(names.map((name) => [name, figure(name)])));
  const mine = found.pool_bytes ?? found.process_bytes;
  return { ...found, others_bytes: found.used_bytes === null || mine === null ? null : Math.max(0, found.used_bytes - mine) };
}
