/** `.runs`: the list of trainings, one line each. */

import { h, setAttribute, setChildren, setText } from "./dom.js";
import { mountEmpty } from "./empty.js";
import { formatAgo, formatBytes, formatCount, formatOrdinal, formatPercent } from "./format.js";
import { hasLittleFree, tighterOf } from "./sentence.js";
import { mountState } from "./state.js";
import { hasEnded, visibleRuns } from "./store.js";
import { STRINGS } from "./strings.js";

/**
 * @typedef {import("./types.js").RunSummary} RunSummary
 * @typedef {import("./store.js").State} State
 */

const T = STRINGS.runs;

/**
 * @param {HTMLElement} root
 * @param {{onFilter: (text: string) => void}} actions
 */
export function mountRuns(root, { onFilter }) {
  const filter = /** @type {HTMLInputElement} */ (h("input", {
    class: "runs-filter", type: "search", placeholder: T.filter, "aria-label": T.filter, "data-testid": "filter",
    oninput: () => onFilter(filter.value),
  }));
  const count = h("small", {});
  const head = h("header", { class: "runs-head" }, h("h1", {}, T.heading), count, filter);
  const body = h("tbody", {});
  const table = h("table", { class: "runs-table", "data-testid": "runs" }, h("caption", { class: "unseen" }, T.caption), columns(), body);
  const card = h("section", { class: "card runs-card" }, table);
  const message = h("p", { class: "runs-message", role: "status" });
  const empty = h("section", { class: "empty card" });
  mountEmpty(empty);
  root.append(head, message, card, empty);
  /** @type {Map<string, ReturnType<typeof mountRow>>} */
  const rows = new Map();

  return {
    /**
     * @param {State} state
     * @param {number} now_ms
     */
    update(state, now_ms) {
      const shown = visibleRuns(state);
      const all = state.runs ?? [];
      const live = all.filter((run) => !hasEnded(run)).length;
      if (filter.value !== state.filter) filter.value = state.filter;
      setText(count, all.length ? T.count(live, all.length) : "");
      setText(message, messageOf(state, shown));
      message.hidden = message.textContent === "";
      empty.hidden = !(state.runs && all.length === 0);
      head.hidden = all.length === 0;
      card.hidden = shown.length === 0;
      updateRows(body, rows, shown, now_ms);
    },
    destroy() {
      root.replaceChildren();
    },
  };
}

/**
 * @param {State} state
 * @param {RunSummary[]} shown
 */
function messageOf(state, shown) {
  if (!state.runs) return state.runsFailed ? T.failed : T.loading;
  return state.runs.length > 0 && shown.length === 0 ? T.noMatch(state.filter.trim()) : "";
}

function columns() {
  const names = /** @type {(keyof typeof T.columns)[]} */ (Object.keys(T.columns));
  const right = new Set(["rss", "headroom", "seen"]);
  return h("thead", {}, h("tr", {}, ...names.map((name) =>
    h("th", { scope: "col", class: `runs-${name}${right.has(name) ? " right" : ""}` }, T.columns[name]))));
}

/**
 * @param {HTMLElement} body
 * @param {Map<string, ReturnType<typeof mountRow>>} rows
 * @param {RunSummary[]} shown
 * @param {number} now_ms
 */
function updateRows(body, rows, shown, now_ms) {
  const ids = new Set(shown.map((run) => run.id));
  for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
  const elements = shown.map((run) => {
    const row = rows.get(run.id) ?? mountRow(run.id);
    rows.set(run.id, row);
    row.update(run, now_ms);
    return row.element;
  });
  setChildren(body, elements);
}

/** @param {string} id */
function mountRow(id) {
  const state = mountState();
  const project = h("span", { class: "runs-project" });
  const name = h("strong", {});
  const sources = h("small", { class: "runs-sources" });
  const link = h("a", { href: `/runs/${encodeURIComponent(id)}`, "data-testid": "run-link" }, project, name);
  const tighter = h("span", { class: "runs-tighter", "data-testid": "tighter" });
  const [host, progress, rss, seen] = ["host", "progress", "rss right", "seen right"].map((cell) => h("td", { class: `runs-${cell}` }));
  const free = h("span", {});
  const fill = h("i", {});
  const meter = h("span", { class: "runs-meter", "aria-hidden": "true" }, fill);
  const element = h("tr", { "data-run": id, "data-testid": "run" },
    h("td", { class: "runs-state" }, state.element), h("td", { class: "runs-run" }, h("div", {}, link, sources), tighter), host, progress, rss,
    h("td", { class: "runs-headroom right" }, free, meter), seen);

  return {
    element,
    /**
     * @param {RunSummary} run
     * @param {number} now_ms
     */
    update(run, now_ms) {
      state.update(run);
      setAttribute(element, "data-state", run.state);
      setText(project, run.project);
      setText(name, run.name);
      setAttribute(link, "title", `${run.project} / ${run.name}`);
      setText(sources, run.sources > 1 ? T.sources(run.sources) : "");
      const tight = hasEnded(run) ? null : run.tightest;
      tighter.hidden = !tight;
      setText(tighter, tight ? tighterOf(tight) : "");
      setText(host, run.host);
      setAttribute(host, "title", run.host);
      setText(progress, progressOf(run));
      setText(rss, formatBytes(run.rss_bytes));
      setText(seen, formatAgo(run.last_ms ?? run.created_ms, now_ms));
      updateHeadroom(run);
    },
  };

  /** @param {RunSummary} run */
  function updateHeadroom(run) {
    const share = run.limit_bytes && run.working_set_bytes !== null ? run.working_set_bytes / run.limit_bytes : null;
    setText(free, headroomOf(run.headroom_bytes));
    setAttribute(element, "data-little", hasLittleFree(run) ? "" : null);
    setAttribute(element, "data-tight", !hasEnded(run) && hasLittleFree(run.tightest) ? "" : null);
    meter.style.visibility = share === null ? "hidden" : "visible";
    fill.style.width = `${Math.min(100, (share ?? 0) * 100).toFixed(1)}%`;
    setAttribute(meter, "title", share === null ? null : T.used(formatPercent(share)));
  }
}

/** @param {number | null} bytes */
function headroomOf(bytes) {
  if (bytes === null) return T.noLimit;
  return bytes < 0 ? T.over(formatBytes(-bytes)) : T.free(formatBytes(bytes));
}

/** @param {RunSummary} run */
function progressOf(run) {
  if (run.batch === null && run.epoch === null) return T.notStarted;
  const parts = [];
  if (run.epoch !== null) parts.push(T.epoch(formatOrdinal(run.epoch), run.epochs === null ? null : formatCount(run.epochs)));
  const known = run.step !== null && run.steps_per_epoch !== null;
  if (known) parts.push(T.batch(formatOrdinal(run.step), formatCount(run.steps_per_epoch)));
  else if (run.batch !== null) parts.push(T.batch(formatOrdinal(run.batch), null));
  return parts.join(" · ");
}
