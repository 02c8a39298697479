/** `.chart`: a card with one picture, its read-out, and what lies over it: limit, flags, epochs, crosshair. */

import { mountCrosshair } from "./crosshair.js";
import { devicesOf } from "./devices.js";
import { h, setAttribute, setChildren, setText } from "./dom.js";
import { FIGURES } from "./figures.js";
import { epochMarks, flags, fraction } from "./marks.js";
import { MARGIN, drawnRange } from "./parts.js";
import { clear, draw } from "./plot.js";
import { READOUTS, rowAt, where } from "./readouts.js";
import { length, xs } from "./series.js";
import { chosen, seenFrom } from "./sources.js";
import { hasEnded } from "./store.js";
import { STRINGS } from "./strings.js";

/**
 * @typedef {import("./store.js").RunPage} RunPage
 * @typedef {import("./types.js").Palette} Palette
 * @typedef {import("./types.js").Range} Range
 * @typedef {import("./parts.js").Figure} Figure
 * @typedef {"memory" | "duration" | "faults" | "swap" | "pressure" | "gpu"} ChartName
 *
 * @typedef {object} Env
 * @property {{invalidate: (owner: object, draw: () => void | Promise<void>) => void, forget: (owner: object) => void}} frames
 * @property {() => void} onDrawn
 * @property {(x: number | null, how: "pointer" | "keys") => void} onCursor
 * @property {(steps: number) => void} onStep
 * @property {(factor: number) => void} onScale
 * @property {(range: Range) => void} onZoom
 * @property {() => void} onAll
 * @property {() => void} onRetry
 */

/**
 * @param {ChartName} name
 * @param {Env} env
 */
export function mountChart(name, env) {
  const words = STRINGS.chart[name];
  const note = h("small", {}, words.note);
  const head = h("header", { class: "chart-head" }, h("h2", {}, words.title), note);
  const read = h("div", { class: "chart-read", "data-testid": `read-${name}` });
  const spoken = h("div", { class: "unseen", "aria-live": "polite" });
  const flagRow = h("div", { class: "chart-flags" });
  const plot = h("div", { class: "chart-plot", "aria-hidden": "true" });
  const limit = h("div", { class: "chart-limit", "data-testid": "limit" });
  const cap = h("div", { class: "chart-limit chart-cap", "data-testid": "cap" });
  const dot = h("div", { class: "chart-dot" });
  const epochs = h("div", { class: "chart-epochs", "data-testid": "epochs" });
  const text = h("p", {});
  const retry = h("button", { type: "button", class: "button", onclick: env.onRetry }, STRINGS.chart.retry);
  const message = h("div", { class: "chart-message", role: "status" }, text, retry);
  /** @type {Range} */
  let range = [0, 1];
  const toX = (/** @type {number} */ at) => range[0] + at * (range[1] - range[0]);
  const crosshair = mountCrosshair(STRINGS.chart.label(words.title), {
    onMove: (at) => env.onCursor(at === null ? null : toX(at), "pointer"),
    onZoom: (from, to) => env.onZoom([toX(from), toX(to)]),
    onAll: env.onAll, onStep: env.onStep, onScale: env.onScale,
  });
  crosshair.element.prepend(limit, cap, dot);
  const body = h("div", { class: "chart-body" }, plot, crosshair.element, message);
  const element = h("section", { class: `chart card chart-${name}`, "data-chart": name, "data-points": "0" }, head, read, spoken, flagRow, body, epochs);
  place(crosshair.element, flagRow, epochs);
  setAttribute(element, "data-empty", "");
  setText(text, STRINGS.chart.loading);
  for (const part of [retry, limit, cap, dot]) part.hidden = true;

  /** @type {RunPage | null} */
  let run = null;
  /** @type {Palette} */
  let palette = {};
  /** @type {number | null} */
  let cursor = null;
  /** @type {unknown[]} */
  let drawnOf = [];
  let shown = false;
  /** Known to be out of sight, which is not known before the observer's first word. */
  let away = false;
  const seen = new IntersectionObserver((entries) => {
    shown = entries.some((entry) => entry.isIntersecting);
    away = !shown;
    wake();
  }, { rootMargin: "200px" });
  const sized = new ResizeObserver(() => wake());
  seen.observe(element);
  sized.observe(body);

  /** Everything that the picture is made of. */
  function ingredients() {
    return [run?.series, run?.view, run?.device, run?.detail?.events, run?.seriesFailed, run?.loading && !run.series, palette, body.clientWidth, body.clientHeight];
  }

  /** Asks for a frame where any of it has changed. */
  function wake() {
    // Below a long verdict on a narrow screen, the page is ready without a picture.
    if (away && name === "memory" && run?.series) env.onDrawn();
    const of = ingredients();
    if (!shown || !run || of.every((part, index) => part === drawnOf[index])) return;
    env.frames.invalidate(element, redraw);
  }

  async function redraw() {
    if (!run) return;
    const { series, view, detail } = run;
    drawnOf = ingredients();
    if (name === "gpu" && detail && !(series && devicesOf(series).length)) return say(noGpu(run));
    if (!series) return say(run.seriesFailed ? STRINGS.chart.failed : STRINGS.chart.loading, run.seriesFailed);
    if (series.x !== view.x) return; // The other axis is on its way; until then the old picture stands.
    if (length(series) === 0) return say(view.range ? STRINGS.chart.nothing : STRINGS.chart.waiting);
    range = drawnRange(series, view);
    const size = { width: body.clientWidth, height: body.clientHeight };
    const events = detail?.events ?? [];
    const from = detail && seenFrom(detail, run.source);
    const figure = FIGURES[name]({ series, range, zoomed: view.range !== null, palette, size, limitKind: from?.limit_kind ?? null, events, device: run.device });
    if (figure.empty) return say(name === "gpu" ? noGpu(run) : figure.empty);
    setAttribute(element, "data-empty", null);
    message.hidden = true;
    try {
      await draw(plot, figure);
    } catch {
      return say(STRINGS.chart.noPlotly);
    }
    overlay(figure, detail !== null && !hasEnded(detail) && view.follow, size.width - MARGIN.left - MARGIN.right);
    showCursor();
    tellDrawn(element, figure, series);
    env.onDrawn();
  }

  /**
   * @param {string} what
   * @param {boolean} [again]
   */
  function say(what, again = false) {
    setText(text, what);
    retry.hidden = !again;
    message.hidden = false;
    setAttribute(element, "data-empty", "");
    setAttribute(element, "data-points", "0");
    setChildren(read, []);
    if (run?.series) env.onDrawn();
  }

  /**
   * @param {Figure} figure
   * @param {boolean} live
   * @param {number} width
   */
  function overlay(figure, live, width) {
    updateLabel(limit, figure.limit);
    updateLabel(cap, figure.cap);
    dot.hidden = !live || figure.dot === null;
    if (figure.dot) {
      dot.style.left = `${figure.dot.x * 100}%`;
      dot.style.top = `${figure.dot.y * 100}%`;
    }
    if (name !== "memory" || !run?.series) return;
    setChildren(epochs, epochMarks(run.series, range, width).map(epochElement));
    setChildren(flagRow, flags(run.detail?.events ?? [], run.series, range, width).map(flagElement));
  }

  /** The read-out of the sample under the crosshair; of the newest without one. */
  function showCursor() {
    const series = run?.series;
    if (!series || length(series) === 0 || element.hasAttribute("data-empty")) return;
    const row = rowAt(series, cursor);
    const place = where(series, row);
    const items = [...(name === "memory" ? place : place.slice(series.x === "batch" ? 0 : -1).slice(0, 1)), ...READOUTS[name](series, row, run?.device)];
    crosshair.show(cursor === null ? null : fraction(xs(series)[row] ?? 0, range));
    updateRead(read, items);
  }

  return {
    element,
    head,
    /** @param {string} text what stands beside the title */
    setNote(text) {
      setText(note, text);
    },
    /**
     * @param {RunPage} next
     * @param {Palette} colours
     */
    update(next, colours) {
      run = next;
      palette = colours;
      wake();
    },
    /**
     * @param {number | null} x
     * @param {boolean} aloud say it to screen readers
     */
    setCursor(x, aloud) {
      cursor = x;
      showCursor();
      setText(spoken, aloud ? [...read.children].map((item) => [...item.children].map((part) => part.textContent).join("")).join(", ") : "");
    },
    /** @returns {Range} */
    range: () => range,
    destroy() {
      seen.disconnect();
      sized.disconnect();
      env.frames.forget(element);
      run = null;
      clear(plot);
    },
  };
}

/**
 * @param {HTMLElement} crosshair
 * @param {HTMLElement[]} rows above and below the plot
 */
function place(crosshair, ...rows) {
  const { left, right, top, bottom } = MARGIN;
  Object.assign(crosshair.style, { left: `${left}px`, right: `${right}px`, top: `${top}px`, bottom: `${bottom}px` });
  for (const row of rows) Object.assign(row.style, { marginLeft: `${left}px`, marginRight: `${right}px` });
}

/**
 * For tests and other observers: what is on the screen, and since when.
 *
 * @param {HTMLElement} element
 * @param {Figure} figure
 * @param {import("./types.js").Series} series
 */
function tellDrawn(element, figure, series) {
  const last = series.columns.batch.findLast((batch) => batch !== null);
  element.dataset["points"] = String(figure.x.length);
  element.dataset["lastBatch"] = last === undefined || last === null ? "" : String(last);
  element.dataset["drawnAt"] = (performance.timeOrigin + performance.now()).toFixed(1);
}

/**
 * @param {HTMLElement} element
 * @param {import("./parts.js").Label | null} label
 */
function updateLabel(element, label) {
  element.hidden = label === null;
  if (!label) return;
  setText(element, label.text);
  element.style.top = `${label.at * 100}%`;
  setAttribute(element, "data-above", label.above ? "" : null);
  setAttribute(element, "data-right", label.right ? "" : null);
}

/** @param {RunPage} run */
function noGpu({ detail, source }) {
  const own = chosen(detail, source);
  const note = own?.gpu_note?.trim();
  if (!note) return own && own.gpus.length > 0 ? STRINGS.chart.waitingTime : STRINGS.chart.noGpu;
  const said = note[0].toUpperCase() + note.slice(1);
  return said.endsWith(".") ? said : `${said}.`;
}

/** @param {import("./marks.js").EpochMark} mark */
function epochElement({ at, text, tick }) {
  const element = h("span", { class: tick ? "chart-epoch" : "chart-epoch chart-epoch-on" }, text);
  element.style.left = `${at * 100}%`;
  return element;
}

/** @param {import("./marks.js").Flag} flag */
function flagElement({ at, text, tone, label, left }) {
  const name = label ? h("span", { class: "chart-flag-name", "data-left": left ? "" : null, "aria-hidden": "true" }, label) : null;
  const element = h("span", { class: "chart-flag", "data-tone": tone, title: text, role: "img", "aria-label": text, tabindex: "0", "data-testid": "flag" }, h("i", {}), name);
  element.style.left = `${at * 100}%`;
  return element;
}

/**
 * @param {HTMLElement} read
 * @param {import("./readouts.js").Readout[]} items
 */
function updateRead(read, items) {
  while (read.children.length > items.length) read.lastElementChild?.remove();
  while (read.children.length < items.length) read.append(h("span", {}, h("i", { "aria-hidden": "true" }), h("span", {}), h("b", {})));
  items.forEach(({ label, value, colour, dash }, index) => {
    const [key, name, figure] = /** @type {HTMLElement[]} */ ([...read.children[index].children]);
    key.hidden = colour === undefined;
    key.style.setProperty("--key", colour ? `var(--${colour})` : "");
    setAttribute(key, "data-dash", dash ? "" : null);
    setText(name, label && `${label} `);
    name.hidden = label === "";
    setText(figure, value);
  });
}
