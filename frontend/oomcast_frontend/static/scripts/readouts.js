/** What the row above a chart says at the crosshair, or at the newest sample (pure). */

import { gpuColour, gpuX } from "./figures.js";
import { formatBytes, formatClock, formatCount, formatDuration, formatOrdinal } from "./format.js";
import { nearest, xs } from "./series.js";
import { STRINGS } from "./strings.js";

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {{label: string, value: string, colour?: string, dash?: boolean}} Readout colour: name of the CSS variable of its line
 */

/** @type {Record<string, (series: Series, row: number) => Readout[]>} */
export const READOUTS = { memory, duration, faults, swap, gpu };

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
    { label: STRINGS.readout.batch, value: formatOrdinal(batch[row]) },
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
function memory({ metrics }, row) {
  const bytes = (/** @type {string} */ name) => metrics[name]?.last[row] ?? null;
  const peak = metrics["peak_bytes"]?.max[row] ?? null;
  return [
    { label: STRINGS.readout.rss, value: formatBytes(bytes("rss_bytes"), true), colour: "rss" },
    { label: STRINGS.readout.peak, value: formatBytes(peak, true), colour: "peak" },
    { label: STRINGS.readout.workingSet, value: formatBytes(bytes("working_set_bytes"), true), colour: "ink-3", dash: true },
    { label: STRINGS.readout.limit, value: formatBytes(bytes("limit_bytes"), true), colour: "limit", dash: true },
  ];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function duration(series, row) {
  const near = nearestKnown(series, "duration_ns", row);
  const { last, max } = series.metrics["duration_ns"];
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
function swap({ metrics }, row) {
  return [{ label: STRINGS.readout.used, value: formatBytes(metrics["swap_bytes"]?.max[row], true), colour: "swap" }];
}

/**
 * @param {Series} series
 * @param {number} row
 * @returns {Readout[]}
 */
function gpu(series, row) {
  const at = nearest(gpuX(series), xs(series)[row] ?? 0);
  return series.gpus.flatMap((device) => [
    {
      label: STRINGS.readout.gpu(device.device),
      value: `${formatBytes(device.used_bytes[at])} / ${formatBytes(device.total_bytes[at])}`,
      colour: gpuColour(device.device),
    },
    ...(series.gpus.length > 1 ? [] : [{ label: STRINGS.readout.process, value: formatBytes(device.process_bytes[at]) }]),
  ]);
}

/**
 * A tick has no figure per batch: the batch before it has.
 *
 * @param {Series} series
 * @param {string} name
 * @param {number} row
 */
function nearestKnown({ metrics, columns }, name, row) {
  const last = metrics[name]?.last ?? [];
  let near = row;
  while (near > 0 && last[near] === null && columns.kind[near] !== 0) near -= 1;
  return near;
}
