/** `.run`: the page of one training. */

import { mountChart } from "./chart.js";
import { mountControls } from "./controls.js";
import { deviceOf, devicesOf, shareOf } from "./devices.js";
import { h, setAttribute, setChildren, setText } from "./dom.js";
import { mountFacts } from "./facts.js";
import { formatAgo, formatPercent, formatSpan } from "./format.js";
import { mountGauge } from "./gauge.js";
import { mountLimits } from "./limits.js";
import { mountPicker } from "./picker.js";
import { mountProcesses } from "./processes.js";
import { rowAt } from "./readouts.js";
import { atItsEnd } from "./reports.js";
import { isPlainEnd, sentence, tighterOf } from "./sentence.js";
import { length, xs } from "./series.js";
import { chosen, hasBatches, inOrder, seenFrom, troubleOf, verdictOf } from "./sources.js";
import { mountState } from "./state.js";
import { hasEnded } from "./store.js";
import { STRINGS } from "./strings.js";
import { mountVerdict } from "./verdict.js";

const T = STRINGS.run;
/** @type {import("./chart.js").ChartName[]} */
const CHARTS = ["memory", "duration", "faults", "swap", "pressure", "gpu"];

/**
 * @typedef {import("./types.js").RunDetail} RunDetail
 * @typedef {import("./store.js").RunPage} RunPage
 */

/**
 * @param {HTMLElement} root
 * @param {object} env
 * @param {(action: {type: string} & Record<string, any>) => void} env.emit
 * @param {import("./chart.js").Env["frames"]} env.frames
 * @param {() => void} env.onReady
 */
export function mountRun(root, { emit, frames, onReady }) {
  const state = mountState();
  setAttribute(state.element, "role", "status");
  const meta = h("span", { class: "run-meta", "data-testid": "meta" });
  const said = h("h1", { class: "run-sentence", "data-testid": "sentence" }, T.loading);
  const more = h("details", { class: "run-more" }, h("summary", {}, T.whole), h("pre", {}));
  more.hidden = true;
  const rest = h("p", { class: "run-rest", "data-testid": "rest", hidden: "" });
  const verdict = h("section", { class: "verdict" });
  const source = /** @type {HTMLSelectElement} */ (h("select", { class: "run-source", "aria-label": STRINGS.source.label, "data-testid": "source", onchange: () => emit({ type: "source", id: source.value }) }));
  const gauge = h("div", { class: "gauge" });
  const limits = h("section", { class: "limits" });
  const facts = h("dl", { class: "facts" });
  const processes = h("section", { class: "processes card" });
  const devices = h("div", { class: "controls-segment chart-devices", "data-testid": "devices" });
  const controls = h("div", { class: "controls" });
  const charts = CHARTS.map((name) => mountChart(name, {
    frames, onDrawn: onReady,
    onCursor: (x) => setCursor(x, false),
    onStep: step, onScale: scale,
    onZoom: (range) => emit({ type: "zoom", range }),
    onAll: () => emit({ type: "all" }),
    onRetry: () => emit({ type: "retry" }),
  }));
  const [memory, ...others] = charts;
  memory.head.append(controls);
  const [duration, faults, pressure, gpu] = ["duration", "faults", "pressure", "gpu"].map((name) => charts[CHARTS.indexOf(/** @type {any} */ (name))]);
  gpu.head.append(devices);
  const parts = {
    gauge: mountGauge(gauge), limits: mountLimits(limits), facts: mountFacts(facts), verdict: mountVerdict(verdict),
    processes: mountProcesses(processes),
    devices: mountPicker(devices, STRINGS.chart.devices, (device) => emit({ type: "device", device })),
    controls: mountControls(controls, {
      onX: (axis) => emit({ type: "x", axis }), onWindow: (name) => emit({ type: "window", name }),
      onFollow: () => emit({ type: "follow" }), onAll: () => emit({ type: "all" }),
    }),
  };
  const top = h("div", { class: "run-top" }, h("div", { class: "run-line" }, state.element, meta, source), said, rest, more);
  const grid = h("div", { class: "run-charts" }, ...others.map((chart) => chart.element), processes);
  const page = h("div", { class: "run-page" }, top, verdict, gauge, limits, facts, memory.element, grid);
  const problem = mountProblem();
  root.append(page, problem.element);
  /** @type {RunPage | null} */
  let run = null;
  /** @type {number | null} */
  let cursor = null;

  /**
   * The crosshair stands on a sample, the same one in all charts.
   *
   * @param {number | null} x
   * @param {boolean} aloud
   */
  function setCursor(x, aloud) {
    const series = run?.series;
    cursor = x === null || !series || length(series) === 0 ? null : xs(series)[rowAt(series, x)];
    for (const chart of charts) chart.setCursor(cursor, aloud && chart === memory);
  }

  /** @param {number} steps */
  function step(steps) {
    const series = run?.series;
    if (!series || length(series) === 0) return;
    const row = Math.min(length(series) - 1, Math.max(0, rowAt(series, cursor) + steps));
    setCursor(xs(series)[row], true);
  }

  /** @param {number} factor */
  function scale(factor) {
    const [from, to] = memory.range();
    const centre = cursor ?? (from + to) / 2;
    const range = [from, to].map((end) => centre + (end - centre) * factor);
    emit({ type: "zoom", range: [Math.max(0, range[0]), range[1]] });
  }

  return {
    /**
     * @param {import("./store.js").State} next
     * @param {number} now_ms
     * @param {import("./types.js").Palette} palette
     */
    update(next, now_ms, palette) {
      run = next.run;
      if (!run) return;
      problem.update(run);
      page.hidden = run.problem !== null;
      if (run.problem !== null) return onReady();
      setAttribute(page, "data-loading", run.detail ? null : "");
      if (run.detail) updateTop(run.detail, now_ms);
      updateSources(source, run);
      updateDetails(run);
      parts.controls.update(run);
      for (const chart of charts) chart.update(run, palette);
    },
    destroy() {
      for (const chart of charts) chart.destroy();
      root.replaceChildren();
    },
  };

  /**
   * @param {RunDetail} detail
   * @param {number} now_ms
   */
  function updateTop(detail, now_ms) {
    const own = chosen(detail, run?.source ?? null);
    const seen = seenFrom(detail, run?.source ?? null);
    const trouble = troubleOf(detail);
    const { text, rest: following, more: whole } = sentence(seen, now_ms, trouble);
    const verdict = isPlainEnd(detail) ? null : verdictOf(detail, run?.source ?? null);
    const tight = following === null ? tighter(detail, run?.source ?? null) : following;
    state.update(detail, trouble?.kind ?? null);
    setText(meta, metaOf(seen, now_ms));
    if (said.textContent !== text) said.replaceChildren(...unbroken(text));
    rest.hidden = tight === null;
    setText(rest, tight ?? "");
    more.hidden = whole === null;
    setText(more.children[1], whole ?? "");
    const whose = verdict?.source !== detail.verdict?.source ? detail.sources_detail.find((one) => one.id === verdict?.source) : undefined;
    parts.verdict.update(verdict, whose ? STRINGS.source.short(whose.host, whose.rank) : null);
    parts.gauge.update(atItsEnd(seen, verdict, own?.id ?? null), trouble?.kind === "critical" && trouble.source.id === own?.id);
    parts.facts.update(seen, run?.series ?? null, hasBatches(own));
  }

  /** @param {RunPage} now */
  function updateDetails({ detail, series, source: id, device }) {
    const own = chosen(detail, id);
    // An end leaves the last status behind: what was alive then is the report's to tell.
    const status = own && !hasEnded(own) ? own.status : null;
    parts.limits.update(own?.status ?? null);
    parts.processes.update(status, series?.ticks.metrics["tree_pss_bytes"]?.last.findLast((value) => value !== null) ?? null);
    const batches = hasBatches(own);
    duration.element.hidden = !batches;
    memory.setNote(batches ? STRINGS.chart.memory.note : STRINGS.chart.rss);
    faults.setNote(batches ? STRINGS.chart.faults.note : STRINGS.chart.perTick);
    pressure.setNote(whosePressure(own?.status?.pressure ?? null));
    const options = series ? devicesOf(series) : [];
    parts.devices.update(options.map((gpu) => deviceOption(gpu, own)), series ? (deviceOf(series, device)?.device ?? null) : null);
    const shown = own?.gpus?.find((one) => one.device === (series && deviceOf(series, device)?.device));
    gpu.setNote(shown ? [shown.name, shown.instance].filter(Boolean).join(" · ") : "");
  }
}

/**
 * A text with its figures kept whole: no line ends between a number and its unit.
 *
 * @param {string} text
 */
function unbroken(text) {
  return text.split(/(\d[\d.,]* (?:[KMGTP]iB|B|%|s|min|h|d)(?![\p{L}\d]))/u).map((part, index) => (index % 2 ? h("span", { class: "run-figure" }, part) : document.createTextNode(part)));
}

/**
 * What is to say of another source than the one that is shown: that it has less left.
 *
 * @param {RunDetail} detail
 * @param {string | null} shown
 */
function tighter({ tightest, state, main_source }, shown) {
  if (!tightest || hasEnded({ state }) || tightest.id === (shown ?? main_source)) return null;
  const said = tighterOf(tightest);
  return `${said[0].toUpperCase()}${said.slice(1)}.`;
}

/** @param {string | null} pressure */
function whosePressure(pressure) {
  const words = STRINGS.chart.pressureOf;
  return pressure === null ? words.unknown : pressure === "system" ? words.system : words.cgroup;
}

/**
 * @param {import("./types.js").GpuColumns} gpu
 * @param {import("./types.js").SourceDetail | null} source
 */
function deviceOption(gpu, source) {
  const share = shareOf(gpu);
  const known = source?.gpus?.find((one) => one.device === gpu.device);
  return {
    value: gpu.device, title: [known?.name, known?.instance].filter(Boolean).join(" · "),
    text: share === null ? STRINGS.chart.device(gpu.device) : STRINGS.chart.deviceShare(gpu.device, formatPercent(share)),
  };
}

/**
 * @param {RunDetail} detail
 * @param {number} now_ms
 */
function metaOf(detail, now_ms) {
  const last = detail.last_ms ?? detail.created_ms;
  const ended = detail.ended_ms ?? last;
  const span = {
    live: () => T.liveFor(formatSpan(now_ms - detail.created_ms)),
    silent: () => T.silentFor(formatSpan(now_ms - last)),
    finished: () => T.ran(formatSpan(ended - detail.created_ms), formatAgo(ended, now_ms)),
  };
  const say = detail.state === "live" || detail.state === "silent" ? span[detail.state] : span.finished;
  return [detail.host, T.pid(detail.pid), say()].join(" · ");
}

/**
 * @param {HTMLSelectElement} select
 * @param {RunPage} run
 */
function updateSources(select, { detail, source }) {
  const sources = detail ? inOrder(detail) : [];
  select.hidden = sources.length < 2;
  const key = sources.map((one) => one.id).join(" ");
  if (select.dataset["key"] !== key) {
    select.dataset["key"] = key;
    setChildren(select, sources.map((one) => h("option", { value: one.id }, labelOf(one, one.id === detail?.main_source))));
  }
  if (source !== null && select.value !== source) select.value = source;
}

/**
 * @param {import("./types.js").SourceDetail} source
 * @param {boolean} main
 */
function labelOf({ host, pid, rank, kind }, main) {
  const words = /** @type {Record<string, string>} */ (STRINGS.source.kind);
  return STRINGS.source.of(host, pid, rank, words[kind] ?? kind ?? "", main);
}

function mountProblem() {
  const what = h("h1", {});
  const help = h("p", {});
  const element = h("section", { class: "run-problem card", "data-testid": "problem" }, what, help, h("a", { href: "/", class: "button" }, T.toRuns));
  return {
    element,
    /** @param {RunPage} run */
    update({ problem }) {
      element.hidden = problem === null;
      setText(what, problem === "unknown" ? T.unknown : T.failed);
      setText(help, problem === "unknown" ? T.unknownHelp : T.failedHelp);
    },
  };
}
