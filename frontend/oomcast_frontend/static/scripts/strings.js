/** Every English text of the page. Text in backticks is set as code. */

export const STRINGS = {
  title: "oomcast",
  titleOf: (/** @type {string} */ name) => `${name} · oomcast`,
  brand: ["oom", "cast"],
  theme: { toDark: "Dark", toLight: "Light", label: "Switch between light and dark" },
  skip: "Skip to content",

  state: { live: "live", silent: "silent", finished: "finished", stopped: "stopped", failed: "failed", died: "died" },
  outOfMemory: "out of memory",
  shape: { live: "●", silent: "◌", finished: "○", stopped: "□", failed: "✕", died: "✕" },
  phase: {
    idle: "between fits", train: "training", validation: "validation", test: "evaluating", predict: "predicting",
  },

  connection: {
    lost: "Connection lost, trying again…",
    denied: "This page's key is no longer valid: open the link again (`oomcast link`)",
  },

  runs: {
    heading: "Runs",
    filter: "Filter runs",
    caption: "Trainings, live ones first",
    columns: {
      state: "state", run: "run", host: "host", progress: "progress", rss: "RSS", headroom: "headroom", seen: "last seen",
    },
    loading: "Loading the runs…",
    failed: "The list of runs could not be read. It is asked for again when the connection is back.",
    noMatch: (/** @type {string} */ text) => `No run matches “${text}”.`,
    count: (/** @type {number} */ live, /** @type {number} */ all) =>
      live ? `${live} live of ${all}` : all === 1 ? "1 run" : `${all} runs`,
    epoch: (/** @type {string} */ epoch, /** @type {string | null} */ of) => (of ? `epoch ${epoch} / ${of}` : `epoch ${epoch}`),
    batch: (/** @type {string} */ batch, /** @type {string | null} */ of) => (of ? `batch ${batch} / ${of}` : `batch ${batch}`),
    notStarted: "not started",
    free: (/** @type {string} */ bytes) => `${bytes} free`,
    over: (/** @type {string} */ bytes) => `${bytes} over`,
    noLimit: "no limit known",
    used: (/** @type {string} */ percent) => `${percent} of the limit in use`,
  },

  empty: {
    heading: "No runs yet",
    lead: "Add one callback to a training, and it appears here while it runs:",
    code: "from oomcast import MemoryMonitor\n\nmodel.fit(x, y, callbacks=[MemoryMonitor()])",
    or: "Or watch a small training that comes with oomcast:",
    demo: "oomcast demo",
    copy: "Copy",
    copied: "Copied",
  },

  run: {
    back: "runs",
    breadcrumb: "Where this page is",
    pid: (/** @type {number} */ pid) => `pid ${pid}`,
    liveFor: (/** @type {string} */ span) => `live for ${span}`,
    silentFor: (/** @type {string} */ span) => `silent for ${span}`,
    ran: (/** @type {string} */ span, /** @type {string} */ ago) => (ago === "now" ? `ran ${span}, ended just now` : `ran ${span}, ended ${ago}`),
    loading: "Loading the run…",
    unknown: "There is no run with this id here.",
    unknownHelp: "It may be on another server, or not have sent anything yet; if it does, this page shows it.",
    failed: "This run could not be read.",
    failedHelp: "It is asked for again when the connection is back.",
    nowhere: "There is nothing at this address.",
    whole: "The whole message",
    toRuns: "All runs",
    source: "source",
    sourceOf: (/** @type {string} */ host, /** @type {number} */ pid, /** @type {number | null} */ rank) =>
      rank === null ? `${host} · pid ${pid}` : `rank ${rank} · ${host} · pid ${pid}`,
  },

  sentence: {
    waiting: "Waiting for the first batch.",
    using: (/** @type {string} */ used, /** @type {string} */ limit, /** @type {string} */ free) => `Using ${used} of ${limit}; ${free} free.`,
    over: (/** @type {string} */ used, /** @type {string} */ limit, /** @type {string} */ over) => `Using ${used} of ${limit}; ${over} over the limit.`,
    sharing: (/** @type {string} */ own, /** @type {string} */ limit, /** @type {string} */ free) => `This process uses ${own}; ${free} of ${limit} is free.`,
    usingOnly: (/** @type {string} */ used) => `Using ${used}; no limit known.`,
    silent: (/** @type {string} */ span, /** @type {string} */ rest) => `No word for ${span}. ${rest}`,
    lastUsing: (/** @type {string} */ used, /** @type {string} */ free) => `Last seen using ${used}, with ${free} free.`,
    lastUsingOnly: (/** @type {string} */ used) => `Last seen using ${used}.`,
    finished: (/** @type {number | null} */ epochs, /** @type {string} */ peak) =>
      epochs === null ? `Finished; peak ${peak}.` : `Finished after ${epochs === 1 ? "1 epoch" : `${epochs} epochs`}; peak ${peak}.`,
    failed: (/** @type {string} */ what) => `Failed: ${what}`,
    failedBare: "Failed.",
    stopped: "Stopped by its user.",
    because: (/** @type {string} */ evidence) => `Evidence: ${evidence}.`,
    died: (/** @type {string | null} */ batch, /** @type {string | null} */ free) =>
      `Died without a word${batch === null ? " before the first batch" : ` at batch ${batch}`}${free === null ? "" : `, with ${free} free`}.`,
  },

  gauge: {
    of: (/** @type {string} */ used, /** @type {string} */ limit) => `${used} of ${limit}`,
    binds: (/** @type {string} */ kind) => `${kind} binds`,
    free: (/** @type {string} */ free) => `${free} free`,
    over: (/** @type {string} */ over) => `${over} over`,
    none: "No limit known: nothing but the machine bounds this process.",
    process: (/** @type {string} */ bytes) => `this process ${bytes}`,
    processPart: (/** @type {string} */ charged, /** @type {string} */ rss) => `this process ${charged} (RSS ${rss}; shared files are not all charged here)`,
    other: (/** @type {string} */ bytes) => `others and caches under the same limit ${bytes}`,
    peak: (/** @type {string} */ bytes) => `largest peak ${bytes}`,
    label: "Headroom",
  },

  facts: {
    epoch: "epoch", batch: "batch", batchOfEpoch: "batch of this epoch", time: "per batch", peak: "largest peak", samples: "samples",
    of: (/** @type {string} */ value, /** @type {string | null} */ total) => (total === null ? value : `${value} / ${total}`),
  },

  controls: {
    heading: "Charts",
    axis: "x axis", batch: "batch", time: "time",
    window: "stretch", "15m": "15 min", "1h": "1 h", all: "all",
    follow: "Follow live", following: "following live", reset: "Show all",
  },

  chart: {
    memory: { title: "Memory", note: "RSS and its peak inside each batch" },
    duration: { title: "Batch duration", note: "" },
    faults: { title: "Page faults", note: "per batch" },
    swap: { title: "Swap", note: "of this process" },
    gpu: { title: "GPU memory", note: "" },
    label: (/** @type {string} */ title) => `${title} chart. Left and right arrows move the crosshair, plus and minus zoom, 0 shows all.`,
    hint: "Drag to zoom, double-click to show all",
    loading: "Loading…",
    waiting: "Waiting for the first batch…",
    waitingTime: "Waiting for the first sample…",
    nothing: "No batches in this stretch.",
    failed: "The samples could not be read.",
    retry: "Try again",
    noSwap: "Swap can't be read on this machine.",
    noFaults: "Page faults can't be counted on this machine.",
    noGpu: "No GPU seen.",
    noPlotly: "The charts could not be loaded: reload the page.",
    limit: (/** @type {string} */ kind, /** @type {string} */ bytes) => `${kind} · ${bytes}`,
    limitAbove: (/** @type {string} */ kind, /** @type {string} */ bytes) => `↑ ${kind} · ${bytes}`,
    limitBelow: (/** @type {string} */ kind, /** @type {string} */ bytes) => `↓ ${kind} · ${bytes}`,
    aLimit: "limit",
    epoch: (/** @type {string} */ epoch) => `epoch ${epoch}`,
    now: "now",
  },

  readout: {
    batch: "batch", time: "", epoch: "epoch", rss: "RSS", peak: "peak", workingSet: "working set", limit: "limit", swap: "swap",
    minor: "minor", major: "major", duration: "", used: "in use", process: "this process", total: "total", slowest: "slowest",
    gpu: (/** @type {number} */ device) => `GPU ${device}`,
    upTo: (/** @type {string} */ value) => `up to ${value}`,
  },

  event: {
    notice: "Notice", exception: "Exception", end: "End", limit: "Limit changed", gap: "Samples lost",
    text: (/** @type {string} */ what, /** @type {string} */ detail) => (detail ? `${what}: ${detail}` : what),
    several: (/** @type {number} */ count) => `${count} events`,
  },
};
