/** Which rows a line goes through, and where it must break (pure). */

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./types.js").Metric} Metric
 * @typedef {import("./types.js").RunEvent} RunEvent
 * @typedef {import("./parts.js").Given} Given
 */

const BATCH = 0;

/**
 * The rows in their order, with -1 where samples were lost, so that no line is drawn across.
 *
 * @param {Given} given
 * @returns {number[]}
 */
export function unbroken({ series, events }) {
  return broken(series.columns.seq, gapsOf(series, events));
}

/**
 * The same for ticks.
 *
 * @param {Given} given
 * @returns {number[]}
 */
export function tickRows({ series, events }) {
  return broken(series.ticks.columns.seq, gapsOf(series, events));
}

/**
 * @param {Series} series
 * @param {RunEvent[]} events
 */
function gapsOf({ source }, events) {
  return events.filter((event) => event.kind === "gap" && event.source === source).map((event) => event.seq);
}

/**
 * @param {number[]} seq
 * @param {number[]} gaps the seqs of what tells that samples were lost
 */
function broken(seq, gaps) {
  /** @type {number[]} */
  const order = [];
  let next = 0;
  for (let row = 0; row < seq.length; row += 1) {
    while (next < gaps.length && gaps[next] < (seq[row - 1] ?? -1)) next += 1;
    if (row > 0 && next < gaps.length && gaps[next] < seq[row]) order.push(-1);
    order.push(row);
  }
  return order;
}

/**
 * What is counted per batch has no value at a tick; that is no hole.
 *
 * @param {Given} given
 * @param {Metric} metric
 * @returns {number[]}
 */
export function batchRows(given, metric) {
  const kind = given.series.columns.kind;
  return unbroken(given).filter((row) => row < 0 || kind[row] === BATCH || metric.max[row] !== null);
}

/**
 * What each point stands for: the last of its bucket; where that was a tick, which had none, the least, since what comes
 * rarely is large.
 *
 * @param {Metric} metric
 * @returns {Column}
 */
export function typical({ last, min }) {
  return min === last ? last : last.map((value, row) => value ?? min[row]);
}

/**
 * @template T
 * @param {T[]} column
 * @param {number[]} order
 * @returns {(T | null)[]}
 */
export function picked(column, order) {
  return order.map((row) => (row < 0 ? null : column[row]));
}

/**
 * The same for x, which is never missing: a hole stands where the sample before it stood, so that x stays ascending.
 *
 * @param {Column} column
 * @param {number[]} order
 * @returns {Column}
 */
export function pickedX(column, order) {
  return order.map((row, index) => column[row < 0 ? order[index - 1] : row]);
}
