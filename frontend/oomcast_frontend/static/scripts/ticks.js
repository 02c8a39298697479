/**
 * Where an axis has its ticks and what stands there (pure). Plotly's own ticks are decimal; bytes want powers of two,
 * durations want one unit for the whole axis, and times want the reader's clock.
 *
 * @typedef {{values: number[], texts: string[]}} Ticks
 */

import { formatCount } from "./format.js";

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const TIME_STEPS = [
  1000, 2000, 5000, 10_000, 15_000, 30_000, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 28 * DAY,
];

/**
 * @param {number} step
 * @param {number} from
 * @param {number} to
 */
function multiples(step, from, to) {
  const values = [];
  for (let n = Math.ceil(from / step - 1e-9); n * step <= to * (1 + 1e-12); n += 1) values.push(n * step || 0); // never -0
  return values;
}

/**
 * The smallest of 1, 2, 5 times a power of ten that needs no more than `count` steps.
 *
 * @param {number} span
 * @param {number} count
 */
export function decimalStep(span, count) {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
  return (step ?? 10) * power;
}

/**
 * @param {number} from bytes
 * @param {number} to
 * @param {number} [count] of steps at most
 * @returns {Ticks}
 */
export function byteTicks(from, to, count = 5) {
  const step = 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(to - from, 1) / count)));
  const values = multiples(step, from, to);
  return inUnit(values, byteUnit(to, step), 3);
}

/**
 * The largest unit in which the ticks are short: "1.25 GiB", but "1,344 MiB" rather than "1.3125 GiB".
 *
 * @param {number} top
 * @param {number} step
 * @returns {[number, string]}
 */
function byteUnit(top, step) {
  let unit = BYTE_UNITS.findLastIndex((_, power) => top >= 1024 ** power);
  if (unit > 0 && step < 1024 ** unit / 4) unit -= 1;
  return [1024 ** Math.max(unit, 0), BYTE_UNITS[Math.max(unit, 0)]];
}

/**
 * @param {number[]} values
 * @param {[number, string]} unit its size and its name
 * @param {number} digits at most
 * @returns {Ticks}
 */
function inUnit(values, [size, name], digits) {
  const format = new Intl.NumberFormat("en", { maximumFractionDigits: digits });
  return { values, texts: values.map((value) => (value === 0 ? "0" : `${format.format(value / size)} ${name}`)) };
}

/**
 * @param {number} top the axis runs from 0 to here
 * @param {number} [count] of steps at most
 * @returns {Ticks}
 */
export function countTicks(top, count = 3) {
  const step = Math.max(1, decimalStep(Math.max(top, 1), count));
  const values = multiples(step, 0, top);
  return { values, texts: values.map(formatCount) };
}

/**
 * @param {number} top bytes for each second
 * @param {number} [count]
 * @returns {Ticks}
 */
export function rateTicks(top, count = 3) {
  const { values, texts } = byteTicks(0, top, count);
  return { values, texts: texts.map((text) => (text === "0" ? text : `${text}/s`)) };
}

/**
 * @param {number} top 0 to 1
 * @param {number} [count]
 * @returns {Ticks}
 */
export function shareTicks(top, count = 3) {
  const values = multiples(decimalStep(Math.max(top, 0.001), count), 0, top);
  const format = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
  return { values, texts: values.map((value) => (value === 0 ? "0" : `${format.format(value * 100)} %`)) };
}

/**
 * @param {number} top nanoseconds
 * @param {number} [count]
 * @returns {Ticks}
 */
export function durationTicks(top, count = 4) {
  const values = multiples(decimalStep(Math.max(top, 1), count), 0, top);
  const unit = /** @type {[number, string]} */ (top < 1e6 ? [1e3, "µs"] : top < 1e9 ? [1e6, "ms"] : [1e9, "s"]);
  return inUnit(values, unit, 3);
}

/**
 * Batches are counted from 0 and read from 1, so the tick that says 50 stands at 49.
 *
 * @param {number} from
 * @param {number} to
 * @param {number} [count]
 * @returns {Ticks}
 */
export function batchTicks(from, to, count = 8) {
  const step = Math.max(1, decimalStep(Math.max(to - from, 1), count));
  const numbers = multiples(step, from + 1, to + 1).filter((number) => number >= 1);
  return { values: numbers.map((number) => number - 1), texts: numbers.map(formatCount) };
}

/**
 * @param {number} from ms since 1970
 * @param {number} to
 * @param {number} [count]
 * @param {string} [zone] an IANA name; the reader's own when left out
 * @returns {Ticks}
 */
export function timeTicks(from, to, count = 8, zone) {
  const rough = Math.max(to - from, 1000) / count;
  const step = TIME_STEPS.find((candidate) => candidate >= rough) ?? Math.ceil(rough / DAY) * DAY;
  // Whole hours and days of the reader's clock, not of UTC.
  const shift = offsetOf(from, zone);
  const values = multiples(step, from + shift, to + shift).map((value) => value - shift);
  const format = timeFormat(step, to - from, zone);
  return { values, texts: values.map((value) => format.format(value)) };
}

/**
 * @param {number} step
 * @param {number} span
 * @param {string | undefined} zone
 */
function timeFormat(step, span, zone) {
  /** @type {Intl.DateTimeFormatOptions} */
  const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  /** @type {Intl.DateTimeFormatOptions} */
  const day = { day: "numeric", month: "short" };
  const parts = step >= DAY ? day : span > DAY ? { ...day, ...clock } : step < MINUTE ? { ...clock, second: "2-digit" } : clock;
  return new Intl.DateTimeFormat("en-GB", /** @type {Intl.DateTimeFormatOptions} */ ({ ...parts, timeZone: zone }));
}

/**
 * @param {number} ms
 * @param {string | undefined} zone
 * @returns {number} how far the reader's clock is ahead of UTC, in ms
 */
function offsetOf(ms, zone) {
  if (zone === undefined) return -new Date(ms).getTimezoneOffset() * MINUTE;
  const local = new Date(ms).toLocaleString("sv-SE", { timeZone: zone }).replace(" ", "T");
  return Math.round((Date.parse(`${local}Z`) - ms) / MINUTE) * MINUTE;
}
