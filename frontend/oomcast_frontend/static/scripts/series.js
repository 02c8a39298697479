/** One source's samples as columns: from the server's answer, grown by live rows (pure; inputs are never changed). */

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Metric} Metric
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./types.js").RowsMessage} RowsMessage
 * @typedef {import("./types.js").GpuColumns} GpuColumns
 */

const BATCH = 0;
const GPU_COLUMNS = /** @type {const} */ (["batch", "used_bytes", "total_bytes", "process_bytes", "utilization_percent"]);

/**
 * @param {any} answer of `GET /api/runs/{id}/series`
 * @returns {Series}
 */
export function fromAnswer(answer) {
  /** @type {Object<string, Metric>} */
  const metrics = {};
  for (const [name, metric] of Object.entries(answer.metrics)) {
    const { last, min, max } = /** @type {Partial<Metric> & {last: Column}} */ (metric);
    metrics[name] = { last, min: min ?? last, max: max ?? last };
  }
  return {
    source: answer.source, x: answer.x, bucket: answer.bucket, watermark: answer.watermark ?? -1,
    columns: answer.columns, metrics, gpus: answer.gpus ?? [],
  };
}

/** @param {Series} series */
export function length(series) {
  return series.columns.seq.length;
}

/**
 * @param {Series} series
 * @returns {Column} the x value of each point
 */
export function xs(series) {
  return series.x === "batch" ? series.columns.batch : series.columns.time_ms;
}

/**
 * The series with the message's rows behind its own. Rows that it has already (seq ≤ watermark) are left out, and ticks
 * too where x counts batches.
 *
 * @param {Series} series
 * @param {RowsMessage} message
 * @returns {Series}
 */
export function append(series, message) {
  const keep = newRows(series, message);
  const watermark = Math.max(series.watermark, message.to_seq);
  const gpus = appendGpus(series.gpus, message.gpus ?? []);
  if (keep.length === 0) return { ...series, gpus, watermark };
  /** @type {any} */
  const columns = {};
  for (const [name, column] of Object.entries(series.columns)) {
    const more = /** @type {any} */ (message.columns)[name];
    columns[name] = column.concat(keep.map((row) => more?.[row] ?? null));
  }
  /** @type {Object<string, Metric>} */
  const metrics = {};
  for (const [name, metric] of Object.entries(series.metrics)) {
    metrics[name] = grown(metric, keep.map((row) => message.metrics[name]?.[row] ?? null));
  }
  return { ...series, columns, metrics, gpus, watermark };
}

/**
 * @param {Series} series
 * @param {RowsMessage} message
 * @returns {number[]} the indices of the rows to keep
 */
function newRows(series, message) {
  const { seq, kind, batch } = message.columns;
  const keep = [];
  for (let row = 0; row < seq.length; row += 1) {
    if (seq[row] <= series.watermark) continue;
    if (series.x === "batch" && (kind[row] !== BATCH || batch[row] === null)) continue;
    keep.push(row);
  }
  return keep;
}

/**
 * @param {Metric} metric
 * @param {Column} more
 * @returns {Metric}
 */
function grown(metric, more) {
  const last = metric.last.concat(more);
  if (metric.min === metric.last) return { last, min: last, max: last };
  return { last, min: metric.min.concat(more), max: metric.max.concat(more) };
}

/**
 * @param {GpuColumns[]} gpus
 * @param {GpuColumns[]} more
 * @returns {GpuColumns[]}
 */
function appendGpus(gpus, more) {
  if (more.length === 0) return gpus;
  const devices = [...new Set([...gpus, ...more].map((gpu) => gpu.device))].sort((a, b) => a - b);
  return devices.map((device) => {
    const old = gpus.find((gpu) => gpu.device === device);
    const fresh = more.find((gpu) => gpu.device === device);
    return old && fresh ? joinGpu(old, fresh) : /** @type {GpuColumns} */ (old ?? fresh);
  });
}

/**
 * GPU readings carry no seq, so those that are not newer than the last one are the repeats.
 *
 * @param {GpuColumns} old
 * @param {GpuColumns} fresh
 * @returns {GpuColumns}
 */
function joinGpu(old, fresh) {
  const newest = old.time_ms.at(-1) ?? -Infinity;
  const first = fresh.time_ms.findIndex((time) => time > newest);
  if (first < 0) return old;
  /** @type {GpuColumns} */
  const joined = { ...old, time_ms: old.time_ms.concat(fresh.time_ms.slice(first)) };
  for (const name of GPU_COLUMNS) joined[name] = old[name].concat(fresh[name].slice(first));
  return joined;
}

/**
 * The index of the value nearest to x in an ascending column; holes are passed over. -1 when there is none.
 *
 * @param {Column} column
 * @param {number} x
 */
export function nearest(column, x) {
  let low = 0;
  let high = column.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((column[middle] ?? -Infinity) < x) low = middle + 1;
    else high = middle;
  }
  if (low > 0 && x - (column[low - 1] ?? -Infinity) < Math.abs((column[low] ?? Infinity) - x)) return low - 1;
  return column.length === 0 ? -1 : low;
}

/**
 * Time per batch over the newest samples: the median, which one slow batch doesn't move.
 *
 * @param {Series} series
 * @param {number} [newest] how many points to look at
 * @returns {number | null} ns
 */
export function batchTime(series, newest = 50) {
  const { kind, phase } = series.columns;
  const known = (series.metrics.duration_ns?.last ?? [])
    .map((duration, row) => ({ duration, row }))
    .filter(({ duration, row }) => duration !== null && kind[row] === BATCH);
  // A validation batch is another thing than a training batch, and training is what people wait for.
  const training = known.filter(({ row }) => phase[row] === "train");
  const values = (training.length > 0 ? training : known).slice(-newest).map(({ duration }) => Number(duration));
  values.sort((a, b) => a - b);
  return values.length === 0 ? null : values[values.length >> 1];
}

/**
 * Where a window that ends at the newest sample starts, in units of x. Null: the whole series lies inside.
 *
 * @param {Series} series
 * @param {number} span_ms
 */
export function windowStart(series, span_ms) {
  const times = series.columns.time_ms;
  const from = (times.at(-1) ?? 0) - span_ms;
  const row = times.findIndex((time) => time >= from);
  return row <= 0 ? null : xs(series)[row];
}
