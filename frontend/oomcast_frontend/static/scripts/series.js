/** One source's samples as columns: from the server's answer, grown by live rows (pure; inputs are never changed). */

/**
 * @typedef {import("./types.js").Series} Series
 * @typedef {import("./types.js").Metric} Metric
 * @typedef {import("./types.js").Column} Column
 * @typedef {import("./types.js").RowsMessage} RowsMessage
 * @typedef {import("./types.js").GpuColumns} GpuColumns
 * @typedef {import("./types.js").Ticks} Ticks
 */

const BATCH = 0;
const GPU_COLUMNS = /** @type {const} */ ([
  "batch", "used_bytes", "total_bytes", "process_bytes", "utilization_percent", "reserved_bytes", "allocated_bytes",
  "allocated_peak_bytes", "pool_bytes", "allocator_limit_bytes", "ecc_errors",
]);

/**
 * @param {any} answer of `GET /api/runs/{id}/series`
 * @returns {Series}
 */
export function fromAnswer(answer) {
  const { columns, metrics = {} } = answer.ticks ?? {};
  return {
    source: answer.source, x: answer.x, bucket: answer.bucket, watermark: answer.watermark ?? -1,
    columns: answer.columns, metrics: spans(answer.metrics),
    ticks: { columns: columns ?? { batch: [], time_ms: [], seq: [] }, metrics: spans(metrics) },
    gpus: (answer.gpus ?? []).map(whole),
  };
}

/**
 * @param {Object<string, any>} given
 * @returns {Object<string, Metric>}
 */
function spans(given) {
  return Object.fromEntries(Object.entries(given).map(([name, { last, min, max }]) => [name, { last, min: min ?? last, max: max ?? last }]));
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
  const gpus = appendGpus(series.gpus, (message.gpus ?? []).map(whole));
  const ticks = appendTicks(series.ticks, message.ticks);
  if (keep.length === 0) return { ...series, ticks, gpus, watermark };
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
  return { ...series, columns, metrics, ticks, gpus, watermark };
}

/**
 * @param {Ticks} ticks
 * @param {RowsMessage["ticks"] | undefined} more
 * @returns {Ticks}
 */
function appendTicks(ticks, more) {
  const newest = ticks.columns.seq.at(-1) ?? -1;
  const seqs = more?.columns["seq"] ?? [];
  const keep = [...seqs.keys()].filter((row) => Number(seqs[row]) > newest);
  if (!more || keep.length === 0) return ticks;
  const pick = (/** @type {Column | undefined} */ column) => keep.map((row) => column?.[row] ?? null);
  const { batch, time_ms, seq } = ticks.columns;
  const columns = {
    batch: batch.concat(pick(more.columns["batch"])),
    time_ms: time_ms.concat(pick(more.columns["time_ms"]).map(Number)), seq: seq.concat(pick(seqs).map(Number)),
  };
  const names = new Set([...Object.keys(ticks.metrics), ...Object.keys(more.metrics)]);
  const before = (/** @type {string} */ name) => ticks.metrics[name] ?? hollow(seq.length);
  return { columns, metrics: Object.fromEntries([...names].map((name) => [name, grown(before(name), pick(more.metrics[name]))])) };
}

/**
 * @param {number} count
 * @returns {Metric}
 */
function hollow(count) {
  const last = Array(count).fill(null);
  return { last, min: last, max: last };
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
 * GPU readings carry no seq, so those that are not newer than the last one of their kind are the repeats: a batch's may
 * come a little after a tick that was taken later.
 *
 * @param {GpuColumns} old
 * @param {GpuColumns} fresh
 * @returns {GpuColumns}
 */
function joinGpu(old, fresh) {
  const newest = new Map([true, false].map((kind) => [kind, old.time_ms[old.time_ms.findLastIndex((_, row) => isOfDevice(old, row) === kind)] ?? -Infinity]));
  const keep = [...fresh.time_ms.keys()].filter((row) => fresh.time_ms[row] > (newest.get(isOfDevice(fresh, row)) ?? -Infinity));
  if (keep.length === 0) return old;
  /** @type {GpuColumns} */
  const joined = { ...old, time_ms: old.time_ms.concat(keep.map((row) => fresh.time_ms[row])) };
  for (const name of GPU_COLUMNS) joined[name] = old[name].concat(keep.map((row) => fresh[name][row]));
  return joined;
}

/**
 * Whether a reading is NVML's (of the device), else the allocator's.
 *
 * @param {GpuColumns} gpu
 * @param {number} row
 */
function isOfDevice({ used_bytes, total_bytes }, row) {
  return used_bytes[row] !== null || total_bytes[row] !== null;
}

/**
 * @param {any} gpu
 * @returns {GpuColumns} with every column, also those that an older server doesn't send
 */
function whole(gpu) {
  const columns = GPU_COLUMNS.map((name) => [name, gpu[name] ?? Array(gpu.time_ms.length).fill(null)]);
  return { device: gpu.device, time_ms: gpu.time_ms, ...Object.fromEntries(columns) };
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
