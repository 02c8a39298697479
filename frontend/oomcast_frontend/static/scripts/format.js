/** Numbers as people read them (pure). Every function takes null for "not measured" and says so with a dash. */

const DASH = "–";
const MINUS = "−";
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** @type {Map<string, Intl.NumberFormat>} */
const formats = new Map();

/**
 * @param {number} value
 * @param {number} digits after the point, always shown
 */
function fixed(value, digits) {
  const key = String(digits);
  let format = formats.get(key);
  if (!format) {
    format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    formats.set(key, format);
  }
  return format.format(value).replace("-", MINUS);
}

/**
 * @param {number} bytes
 * @returns {number} the index of the unit in which the figure has one to four digits before the point
 */
function unitOf(bytes) {
  const size = Math.abs(bytes);
  let unit = 0;
  // 1023.95 would read "1024.0": go over to the next unit just before.
  while (unit < UNITS.length - 1 && size / 1024 ** unit >= 1023.95) unit += 1;
  return unit;
}

/**
 * @param {number} value in its unit
 * @param {number} unit
 * @param {boolean} precise
 */
function digitsOf(value, unit, precise) {
  if (unit === 0) return 0;
  if (precise) return unit >= 3 ? 2 : 1;
  return unit >= 3 || Math.abs(value) < 9.95 ? 1 : 0;
}

/**
 * @param {number | null | undefined} bytes
 * @param {boolean} [precise] one digit more, for read-outs in which neighbours are compared
 */
export function formatBytes(bytes, precise = false) {
  if (bytes === null || bytes === undefined) return DASH;
  const unit = unitOf(bytes);
  const value = bytes / 1024 ** unit;
  return `${fixed(value, bytes === 0 ? 0 : digitsOf(value, unit, precise))} ${UNITS[unit]}`;
}

/** @param {number | null | undefined} count */
export function formatCount(count) {
  return count === null || count === undefined ? DASH : fixed(count, 0);
}

/** @param {number | null | undefined} number counted from 0; people count from 1 */
export function formatOrdinal(number) {
  return number === null || number === undefined ? DASH : fixed(number + 1, 0);
}

/** @param {number | null | undefined} fraction 0 to 1 */
export function formatPercent(fraction) {
  return fraction === null || fraction === undefined ? DASH : `${fixed(fraction * 100, 0)} %`;
}

/** @param {number | null | undefined} ns */
export function formatDuration(ns) {
  if (ns === null || ns === undefined) return DASH;
  if (ns < 999_500) return `${fixed(ns / 1e3, ns < 9_950 ? 1 : 0)} µs`;
  if (ns < 999_500_000) return `${fixed(ns / 1e6, ns < 9_950_000 ? 1 : 0)} ms`;
  if (ns < 59_950_000_000) return `${fixed(ns / 1e9, ns < 9_995_000_000 ? 2 : 1)} s`;
  return formatSpan(ns / 1e6);
}

/**
 * A length of time in one or two words: "8 s", "12 min", "3 h 5 min", "2 d 4 h".
 *
 * @param {number} ms
 */
export function formatSpan(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/**
 * How long ago, in one unit: "now", "8 s ago", "3 h ago".
 *
 * @param {number} ms
 * @param {number} now_ms
 */
export function formatAgo(ms, now_ms) {
  const age = now_ms - ms;
  if (age < 2000) return "now";
  return `${formatSpan(age).split(" ").slice(0, 2).join(" ")} ago`;
}

/**
 * The time of day, to the second.
 *
 * @param {number} ms
 * @param {string} [zone] an IANA name; the reader's own when left out
 */
export function formatClock(ms, zone) {
  return new Intl.DateTimeFormat("en-GB", {
    hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: zone,
  }).format(ms);
}

/** @param {number | null | undefined} fraction 0 to 1; the smaller, the more digits */
export function formatShare(fraction) {
  if (fraction === null || fraction === undefined) return DASH;
  const percent = fraction * 100;
  return `${fixed(percent, percent === 0 || Math.abs(percent) >= 9.95 ? 0 : 1)} %`;
}

/** @param {number | null | undefined} bytes for each second */
export function formatRate(bytes) {
  return bytes === null || bytes === undefined ? DASH : `${formatBytes(bytes)}/s`;
}

/** Longer paths are shortened in their middle: the first and the last part tell most. */
const LONGEST_NAME = 40;

/**
 * The name of a limit in words, with a long path shortened.
 *
 * @param {string} kind "cgroup /a/b (memory.high)", "host memory"
 * @param {number} [longest] characters
 */
export function nameLimit(kind, longest = LONGEST_NAME) {
  const { head, parts, tail } = partsOf(kind);
  const whole = parts === null ? head : `${head}/${parts.join("/")}`;
  if (parts === null || whole.length <= longest || parts.length < 2) return clipped(whole, longest) + tail;
  const last = parts.at(-1) ?? "";
  const first = parts.length > 2 && head.length + parts[0].length + last.length + 4 <= longest ? `${parts[0]}/` : "";
  return clipped(`${head}/${first}…/${last}`, longest) + tail;
}

/**
 * @param {string} text
 * @param {number} longest
 */
function clipped(text, longest) {
  const half = (longest - 1) >> 1;
  return text.length <= longest ? text : `${text.slice(0, longest - 1 - half)}…${text.slice(-half)}`;
}

/**
 * The name of a limit, short enough for a chart: of a cgroup's path, its last part.
 *
 * @param {string} kind "cgroup /a/b", "host memory"
 */
export function shortLimit(kind) {
  const { head, parts, tail } = partsOf(kind);
  return `${head}${parts === null ? "" : parts.at(-1) || "/"}${tail}`;
}

/**
 * @param {string} kind
 * @returns {{head: string, parts: string[] | null, tail: string}} parts: of a cgroup's path
 */
function partsOf(kind) {
  const plain = kind.replace("(memory.high)", "(throttles)");
  const [, path, tail = ""] = plain.match(/^cgroup \/(.*?)( \([^()/]*\))?$/) ?? [];
  return path === undefined ? { head: plain, parts: null, tail: "" } : { head: "cgroup ", parts: path.split("/"), tail };
}
