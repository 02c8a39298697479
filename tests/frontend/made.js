/** Made-up values of the contract's shapes, for the tests beside this file. */

const METRICS = [
  "rss_bytes", "peak_bytes", "shared_bytes", "swap_bytes", "minor_faults", "major_faults", "duration_ns", "limit_bytes",
  "working_set_bytes",
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

/** The answer of the series request: rows `from` to `from + count - 1`, one raw row each. */
export function answer(from, count, { change = {}, ...more } = {}) {
  const { columns, metrics } = columnsOf(from, count, change);
  const lasts = Object.fromEntries(Object.entries(metrics).map(([name, last]) => [name, { last }]));
  return { run: RUN, source: SOURCE, x: "batch", bucket: 1, rows: count, watermark: from + count - 1, columns, metrics: lasts, gpus: [], ...more };
}

export function rows(from, count, { change = {}, ...more } = {}) {
  return {
    type: "rows", run: RUN, source: SOURCE, from_seq: from, to_seq: from + count - 1, ...columnsOf(from, count, change),
    gpus: [], events: [], summary: summary(), sent_ms: START_MS, ...more,
  };
}

export function summary(more = {}) {
  return {
    id: RUN, project: "mnist", name: "brave-sunset-3", tags: [], state: "live", host: "gpu-07", pid: 4211, sources: 1,
    created_ms: START_MS, last_ms: START_MS + 60_000, ended_ms: null, phase: "train", epoch: 1, epochs: 10, batch: 209,
    step: 9, steps_per_epoch: 200, rss_bytes: GIB, peak_bytes: 1.4 * GIB, swap_bytes: 0, limit_bytes: 4 * GIB,
    limit_kind: "cgroup /a/b", working_set_bytes: 1.2 * GIB, headroom_bytes: 2.8 * GIB, samples: 210, outcome: null, ...more,
  };
}

export function detail(more = {}) {
  return { ...summary(), sources_detail: [{ id: SOURCE, host: "gpu-07", pid: 4211, rank: null, gpus: [], gpu_note: null }], events: [], ...more };
}

export function event(seq, kind, more = {}) {
  return { source: SOURCE, seq, kind, time_ms: START_MS + seq * 1000, epoch: 0, batch: seq, detail: {}, ...more };
}

const COLOURS = ["ink", "ink-2", "ink-3", "grid", "rss", "peak", "swap", "major", "minor", "gpu", "time", "stall", "limit"];
export const PALETTE = Object.fromEntries(COLOURS.map((name, index) => [name, `rgb(${index}, 20, 30)`]));
