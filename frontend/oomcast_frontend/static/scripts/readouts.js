/** What the row above a chart says at the crosshair, or at the newest sample (pure). */

import { deviceOf, readingAt } from "./devices.js";
import { formatBytes, formatClock, formatCount, formatDuration, formatOrdinal, formatPercent, formatRate, formatShare } from "./format.js";
import { perSecond, shareOfTime, tickAt } from "./rates.js";
import { typical } from "./rows.js";
import { nearest, xs } from "./series.js";
import { STRINGS } from "./strings.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {{label: string, value: string, colour?: string, dash?: boolean}} Readout colour: name of the CSS variable of its line
 */

/** @type {Record<string, (series: Series, row: number, device?: number | null) => Readout[]>} */
export const READOUTS = { memory, duration, faults, swap, pressure, gpu };

/**
 * The row under the crosshair.
 *
 * @param {Series} series
 * @param {number | null} x null: the newest
 */
export function rowAt(series, x) {
  return x === null ? series.columns.seq.length - 1 : nearest(xs(series), x);
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
export function where({ columns }, row) {
  const { batch, epoch, phase, time_ms } = columns;
  const said = /** @type {Record<string, string>} */ (STRINGS.phase)[phase[row] ?? ""];
  return [
    ...(batch[row] === null ? [] : [{ label: STRINGS.readout.batch, value: formatOrdinal(batch[row]) }]),
    ...(epoch[row] === null ? [] : [{ label: STRINGS.readout.epoch, value: formatOrdinal(epoch[row]) }]),
    ...(said && phase[row] !== "train" ? [{ label: "", value: said }] : []),
    { label: STRINGS.readout.time, value: formatClock(time_ms[row]) },
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function memory(series, row) {
  const { metrics } = series;
  const bytes = (/** @type {string} */ name) => metrics[name]?.last[row] ?? null;
  const peak = metrics["peak_bytes"]?.max[nearestKnown(series, "peak_bytes", row)] ?? null;
  const anonymous = bytes("anonymous_bytes");
  return [
    { label: STRINGS.readout.rss, value: formatBytes(bytes("rss_bytes"), true), colour: "rss" },
    ...(anonymous === null ? [] : [{ label: STRINGS.readout.anonymous, value: formatBytes(anonymous, true), colour: "anonymous" }]),
    ...(peak === null ? [] : [{ label: STRINGS.readout.peak, value: formatBytes(peak, true), colour: "peak" }]),
    ...childrenOf(series, row),
    { label: STRINGS.readout.workingSet, value: formatBytes(bytes("working_set_bytes"), true), colour: "ink-3", dash: true },
    { label: STRINGS.readout.limit, value: formatBytes(bytes("limit_bytes"), true), colour: "limit", dash: true },
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function childrenOf(series, row) {
  const tick = tickAt(series, row);
  const at = (/** @type {string} */ name) => series.ticks.metrics[name]?.last[tick] ?? null;
  const [children, own] = [at("children_rss_bytes"), series.metrics["rss_bytes"]?.last[row] ?? null];
  if (!children) return [];
  return [
    { label: STRINGS.readout.children(at("children")), value: formatBytes(children, true), colour: "children" },
    ...(own === null ? [] : [{ label: STRINGS.readout.together, value: formatBytes(own + children, true) }]),
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function duration(series, row) {
  const near = nearestKnown(series, "duration_ns", row);
  const { max } = series.metrics["duration_ns"];
  const last = typical(series.metrics["duration_ns"]);
  const slowest = max[near] ?? null;
  return [
    { label: STRINGS.readout.duration, value: formatDuration(last[near] ?? null), colour: "time" },
    ...(series.bucket > 1 ? [{ label: STRINGS.readout.slowest, value: formatDuration(slowest) }] : []),
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function faults(series, row) {
  const near = nearestKnown(series, "minor_faults", row);
  const count = (/** @type {string} */ name) => {
    const text = formatCount(series.metrics[name]?.max[near]);
    return series.bucket > 1 ? STRINGS.readout.upTo(text) : text;
  };
  return [
    { label: STRINGS.readout.minor, value: count("minor_faults"), colour: "minor" },
    { label: STRINGS.readout.major, value: count("major_faults"), colour: "major" },
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function swap(series, row) {
  const { metrics, ticks } = series;
  const tick = tickAt(series, row);
  const at = (/** @type {string} */ name) => ticks.metrics[name]?.last[tick] ?? null;
  const children = at("children_swap_bytes");
  const rate = (/** @type {string} */ name) => perSecond(ticks, name)[tick] ?? null;
  const [into, out] = [rate("swap_in_bytes"), rate("swap_out_bytes")];
  const host = at("host_swap_bytes");
  return [
    { label: STRINGS.readout.process, value: formatBytes(metrics["swap_bytes"]?.max[row], true), colour: "swap" },
    ...(children ? [{ label: STRINGS.readout.childrenOnly, value: formatBytes(children, true), colour: "children" }] : []),
    ...(into === null ? [] : [{ label: STRINGS.readout.swapIn, value: formatRate(into), colour: "major" }]),
    ...(out === null ? [] : [{ label: STRINGS.readout.swapOut, value: formatRate(out), colour: "swap-out" }]),
    ...(host === null ? [] : [{ label: STRINGS.readout.host, value: formatBytes(host) }]),
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function pressure(series, row) {
  const { ticks } = series;
  const tick = tickAt(series, row);
  const [some, full] = ["psi_some_us", "psi_full_us"].map((name) => shareOfTime(ticks, name)[tick] ?? null);
  const refaults = perSecond(ticks, "refaults")[tick] ?? null;
  return [
    { label: STRINGS.readout.some, value: formatShare(some), colour: "some" },
    { label: STRINGS.readout.full, value: formatShare(full), colour: "stall" },
    ...(refaults === null ? [] : [{ label: STRINGS.readout.refaults, value: STRINGS.readout.perSecond(formatCount(refaults)) }]),
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @param {number | null} [wanted] the device; null: the first
 * @returns {Readout[]}
 */
function gpu(series, row, wanted = null) {
  const device = deviceOf(series, wanted);
  if (!device) return [];
  const now = readingAt(series, device, row >= series.columns.seq.length - 1 ? null : xs(series)[row]);
  /** @type {(label: string, bytes: number | null, colour?: string, dash?: boolean) => Readout[]} */
  const item = (label, bytes, colour, dash) => (bytes === null ? [] : [{ label, value: formatBytes(bytes), colour, dash }]);
  const pooled = now.pool_bytes !== null;
  return [
    ...item(STRINGS.readout.tensors, now.allocated_bytes, "gpu"),
    ...item(STRINGS.readout.tensorsPeak, now.allocated_peak_bytes),
    ...item(STRINGS.readout.pool, now.pool_bytes, "pool"),
    ...item(STRINGS.readout.process, now.process_bytes, pooled ? undefined : "pool"),
    ...(pooled ? item(STRINGS.readout.others, now.others_bytes) : []),
    ...item(STRINGS.readout.inUse, now.used_bytes, "ink-3"),
    ...item(STRINGS.readout.total, now.total_bytes, "limit"),
    ...(now.utilization_percent === null ? [] : [{ label: STRINGS.readout.busy, value: formatPercent(now.utilization_percent / 100) }]),
    ...(now.ecc_errors ? [{ label: STRINGS.readout.ecc, value: formatCount(now.ecc_errors) }] : []),
  ];
}

/**
 * A tick has no figure per batch: the batch before it has.
 *
 * @param {Series} series
 * @param {string} name
 * @param {number} row
 */
function nearestKnown({ metrics, columns }, name, row) {
  const known = metrics[name]?.max ?? [];
  let near = row;
  while (near > 0 && known[near] === null && columns.kind[near] !== 0) near -= 1;
  return near;
}
