/** `.processes`: the training, its children and what else lives under the same limit. */

import { h, setAttribute, setText } from "./dom.js";
import { formatBytes } from "./format.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.processes;
const FEW = 6;
const ROLES = ["training", "child"];

/**
 * @typedef {import("./types.js").Process} Process
 */

/**
 * @param {Process[]} processes
 * @returns {Process[]} the training, its children, then others; of each the largest first
 */
export function inGroups(processes) {
  const group = (/** @type {Process} */ { role }) => (ROLES.includes(role) ? ROLES.indexOf(role) : ROLES.length);
  return [...processes].sort((a, b) => group(a) - group(b) || (b.rss_bytes ?? -1) - (a.rss_bytes ?? -1));
}

/**
 * @param {Process[]} processes
 * @returns {{count: number, rss_bytes: number | null, swap_bytes: number | null} | null} null: it has no children
 */
export function sumOfChildren(processes) {
  const children = processes.filter((process) => process.role === "child");
  const sum = (/** @type {(number | null)[]} */ sizes) => sizes.reduce((all, size) => (size === null ? all : (all ?? 0) + size), null);
  if (children.length === 0) return null;
  return { count: children.length, rss_bytes: sum(children.map((child) => child.rss_bytes)), swap_bytes: sum(children.map((child) => child.swap_bytes)) };
}

/** @param {HTMLElement} root */
export function mountProcesses(root) {
  const body = h("tbody", {});
  const cells = ["", "", "right", "right"].map((side) => h("td", { class: side }));
  const foot = h("tfoot", {}, h("tr", {}, ...cells));
  const head = h("tr", {}, ...Object.entries(T.columns).map(([name, word]) =>
    h("th", { scope: "col", class: name === "rss" || name === "swap" ? "right" : null }, word)));
  const table = h("table", {}, h("caption", { class: "unseen" }, T.caption), h("thead", {}, head), body, foot);
  const together = h("p", { class: "processes-together" });
  const more = h("button", { type: "button", class: "processes-more", onclick: () => {
    all = !all;
    show();
  } });
  root.dataset["testid"] = "processes";
  root.append(h("h2", {}, T.heading), table, more, together);
  let all = false;
  /** @type {Process[]} */
  let processes = [];

  function show() {
    const shown = all ? processes : processes.slice(0, FEW);
    while (body.children.length > shown.length) body.lastElementChild?.remove();
    while (body.children.length < shown.length) body.append(row());
    shown.forEach((process, index) => update(/** @type {HTMLElement} */ (body.children[index]), process));
    more.hidden = processes.length <= FEW;
    setText(more, all ? T.fewer : T.more(processes.length));
    setAttribute(more, "aria-expanded", String(all));
  }

  return {
    /**
     * @param {import("./types.js").Status | null} status
     * @param {number | null} pss_bytes of the training and its children
     */
    update(status, pss_bytes) {
      processes = inGroups(status?.processes ?? []);
      root.hidden = !processes.some((process) => process.role !== "training");
      if (root.hidden) return;
      show();
      const sum = sumOfChildren(processes);
      foot.hidden = sum === null || sum.count < 2;
      [T.total(sum?.count ?? 0), "", formatBytes(sum?.rss_bytes), formatBytes(sum?.swap_bytes)].forEach((text, index) => setText(cells[index], text));
      together.hidden = pss_bytes === null || sum === null;
      setText(together, T.together(formatBytes(pss_bytes)));
    },
  };
}

function row() {
  const name = h("td", {}, h("span", { class: "processes-name" }), h("small", {}));
  return h("tr", {}, name, ...["", "right", "right"].map((side) => h("td", { class: side })));
}

/**
 * @param {HTMLElement} element
 * @param {Process} process
 */
function update(element, { pid, name, role, rss_bytes, swap_bytes }) {
  const [first, ...rest] = /** @type {HTMLElement[]} */ ([...element.children]);
  const words = /** @type {Record<string, string>} */ (T.role);
  setText(first.children[0], name);
  setAttribute(first, "title", name);
  setText(first.children[1], words[role] ?? role);
  setAttribute(element, "data-role", role);
  [String(pid), formatBytes(rss_bytes), formatBytes(swap_bytes)].forEach((text, index) => setText(rest[index], text));
}
