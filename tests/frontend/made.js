/** Made-up values of the contract's shapes, for the tests beside this file. */

const METRICS = [
  "rss_bytes", "peak_bytes", "shared_bytes", "swap_bytes", "minor_faults", "major_faults", "duration_ns", "limit_bytes",
  "working_set_bytes", "anonymous_bytes",
];
const TICK_METRICS = [
  "children", "children_rss_bytes", "children_swap_bytes", "tree_pss_bytes", "host_swap_bytes", "psi_some_us", "psi_full_us",
  "swap_in_bytes", "swap_out_bytes", "refaults",
];
const GPU_FIGURES = [
  "used_bytes", "total_bytes", "process_bytes", "utilization_percent", "reserved_bytes", "allocated_bytes",
  "allocated_peak_bytes", "pool_bytes", "allocator_limit_bytes", "ecc_errors",
];

export const RUN = "run00001";
export const SOURCE = "source01";
export const MIB = 1024 ** 2;
export const GIB = 1024 ** 3;
export const START_MS = 1_700_000_000_000;

/**
 * @param {number} from the first seq
 * @param {number} count
 * @param {object} [change] metric or column name → (seq) => value
 */
function columnsOf(from, count, change = {}) {
  const seqs = Array.from({ length: count }, (_, index) => from + index);
  const of = (name, value) => seqs.map(change[name] ?? value);
  return {
    columns: {
      batch: of("batch", (seq) => seq), time_ms: of("time_ms", (seq) => START_MS + seq * 1000), seq: seqs,
      kind: of("kind", () => 0), phase: of("phase", () => "train"), epoch: of("epoch", (seq) => Math.floor(seq / 10)),
      step: of("step", (seq) => seq % 10), steps: of("steps", () => 1),
    },
    metrics: Object.fromEntries(METRICS.map((name) => [name, of(name, () => 1000)])),
  };
}

/**
 * Ticks, one a second, plain as in a live message.
 *
 * @param {number[]} seqs
 * @param {Record<string, (index: number) => number | null>} [change] metric → (index) => value
 */
export function ticks(seqs, change = {}) {
  const columns = { batch: seqs, time_ms: seqs.map((_, index) => START_MS + seqs[0] * 1000 + index * 1000), seq: seqs };
  const names = [...new Set([...TICK_METRICS, ...Object.keys(change)])];
  return { columns, metrics: Object.fromEntries(names.map((name) => [name, seqs.map((_, index) => change[name]?.(index) ?? null)])) };
}

/** The same as in the answer of the series request. */
export function tickSeries(seqs, change) {
  const { columns, metrics } = ticks(seqs, change);
  return { columns, metrics: Object.fromEntries(Object.entries(metrics).map(([name, last]) => [name, { last }])) };
}

/**
 * A device's readings; a figure that is left out was not known.
 *
 * @param {number} device
 * @param {number[]} times
 * @param {Record<string, (number | null)[]>} figures
 */
export function gpuReadings(device, times, figures) {
  const columns = GPU_FIGURES.map((name) => [name, figures[name] ?? times.map(() => null)]);
  return { device, time_ms: times, batch: times.map((_, index) => index), ...Object.fromEntries(columns) };
}

/** The answer of the series request: rows `from` to `from + count - 1`, one raw row each. */
export function answer(from, count, { change = {}, ...more } = {}) {
  const { columns, metrics } = columnsOf(from, count, change);
  const lasts = Object.fromEntries(Object.entries(metrics).map(([name, last]) => [name, { last }]));
  return { run: RUN, source: SOURCE, x: "batch", bucket: 1, rows: count, watermark: from + count - 1, columns, metrics: lasts, ticks: tickSeries([]), gpus: [], ...more };
}

export function rows(from, count, { change = {}, ...more } = {}) {
  return {
    type: "rows", run: RUN, source: SOURCE, from_seq: from, to_seq: from + count - 1, ...columnsOf(from, count, change),
    ticks: ticks([]), gpus: [], events: [], status: null, summary: summary(), sent_ms: START_MS, ...more,
  };
}

export function summary(more = {}) {
  return {
    id: RUN, project: "mnist", name: "brave-sunset-3", tags: [], state: "live", host: "gpu-07", pid: 4211, sources: 1,
    created_ms: START_MS, last_ms: START_MS + 60_000, ended_ms: null, phase: "train", epoch: 1, epochs: 10, batch: 209,
    step: 9, steps_per_epoch: 200, rss_bytes: GIB, peak_bytes: 1.4 * GIB, swap_bytes: 0, limit_bytes: 4 * GIB,
    limit_kind: "cgroup /a/b", working_set_bytes: 1.2 * GIB, headroom_bytes: 2.8 * GIB, samples: 210, outcome: null,
    main_source: SOURCE, verdict: null, tightest: null, trouble: null, ...more,
  };
}

export function source(more = {}) {
  return {
    id: SOURCE, host: "gpu-07", pid: 4211, kind: "callback", main: true, state: "live", rank: null, gpus: [], gpu_note: null,
    epoch: 1, batch: 209, step: 9, phase: "train", rss_bytes: GIB, peak_bytes: 1.4 * GIB, swap_bytes: 0, limit_bytes: 4 * GIB,
    limit_kind: "cgroup /a/b", working_set_bytes: 1.2 * GIB, headroom_bytes: 2.8 * GIB, verdict: null, status: null, ...more,
  };
}

export function status(more = {}) {
  return { time_ms: START_MS, limits: [], processes: [], pressure: "system", hung_since_ms: null, ...more };
}

export function verdict(more = {}) {
  return { ending: "oom killed", grade: "confirmed", text: "Killed by the kernel: out of memory.", inferred: false, source: SOURCE, ...more };
}

export function detail(more = {}) {
  return { ...summary(), sources_detail: [source()], events: [], ...more };
}

export function event(seq, kind, more = {}) {
  return { source: SOURCE, seq, kind, time_ms: START_MS + seq * 1000, epoch: 0, batch: seq, detail: {}, ...more };
}

const COLOURS = ["ink", "ink-2", "ink-3", "grid", "rss", "peak", "swap", "major", "minor", "gpu", "time", "stall", "limit", "children", "some", "pool", "swap-out"];
export const PALETTE = Object.fromEntries(COLOURS.map((name, index) => [name, `rgb(${index}, 20, 30)`]));
