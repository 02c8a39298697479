/** `.run`: the page of one training. */

import { mountChart } from "./chart.js";
import { mountControls } from "./controls.js";
import { h, setAttribute, setChildren, setText } from "./dom.js";
import { mountFacts } from "./facts.js";
import { formatAgo, formatSpan } from "./format.js";
import { mountGauge } from "./gauge.js";
import { rowAt } from "./readouts.js";
import { evidenceOf, sentence } from "./sentence.js";
import { length, xs } from "./series.js";
import { mountState } from "./state.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.run;
/** @type {import("./chart.js").ChartName[]} */
const CHARTS = ["memory", "duration", "faults", "swap", "gpu"];

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
  const meta = h("span", { class: "run-meta", "data-testid": "meta" });
  const said = h("h1", { class: "run-sentence", "data-testid": "sentence" }, T.loading);
  const more = h("details", { class: "run-more" }, h("summary", {}, T.whole), h("pre", {}));
  more.hidden = true;
  const why = h("p", { class: "run-why", "data-testid": "evidence", hidden: "" });
  const source = /** @type {HTMLSelectElement} */ (h("select", { class: "run-source", "aria-label": T.source, "data-testid": "source", onchange: () => emit({ type: "source", id: source.value }) }));
  const gauge = h("div", { class: "gauge" });
  const facts = h("dl", { class: "facts" });
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
  const parts = {
    gauge: mountGauge(gauge), facts: mountFacts(facts),
    controls: mountControls(controls, {
      onX: (axis) => emit({ type: "x", axis }), onWindow: (name) => emit({ type: "window", name }),
      onFollow: () => emit({ type: "follow" }), onAll: () => emit({ type: "all" }),
    }),
  };
  const top = h("div", { class: "run-top" }, h("div", { class: "run-line" }, state.element, meta, source), said, why, more);
  const page = h("div", { class: "run-page" }, top, gauge, facts, memory.element, h("div", { class: "run-charts" }, ...others.map((chart) => chart.element)));
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
    const { text, more: whole } = sentence(detail, now_ms);
    state.update(detail);
    setText(meta, metaOf(detail, now_ms));
    setText(said, text);
    const evidence = evidenceOf(detail);
    why.hidden = evidence === null;
    setText(why, evidence ?? "");
    more.hidden = whole === null;
    setText(more.children[1], whole ?? "");
    parts.gauge.update(detail);
    parts.facts.update(detail, run?.series ?? null);
  }
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
  const sources = detail?.sources_detail ?? [];
  select.hidden = sources.length < 2;
  const key = sources.map((one) => one.id).join(" ");
  if (select.dataset["key"] !== key) {
    select.dataset["key"] = key;
    setChildren(select, sources.map((one) => h("option", { value: one.id }, T.sourceOf(one.host, one.pid, one.rank))));
  }
  if (source !== null && select.value !== source) select.value = source;
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
