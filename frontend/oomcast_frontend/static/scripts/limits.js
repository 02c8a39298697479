/** `.limits`: every limit that could stop the training, the tightest first, and which one binds. */

import { h, setAttribute, setText } from "./dom.js";
import { formatBytes, nameLimit } from "./format.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.limits;
const FEW = 3;

/**
 * @typedef {import("./types.js").Limit} Limit
 */

/**
 * @param {Limit[]} limits
 * @returns {Limit[]} the binding one, then by the share that is in use
 */
export function tightestFirst(limits) {
  const share = (/** @type {Limit} */ { used_bytes, limit_bytes }) => (limit_bytes > 0 ? used_bytes / limit_bytes : 1);
  return [...limits].sort((a, b) => Number(b.binds) - Number(a.binds) || share(b) - share(a));
}

/** @param {HTMLElement} root */
export function mountLimits(root) {
  const rows = h("ul", { class: "limits-rows" });
  const more = h("button", { type: "button", class: "limits-more", "data-testid": "limits-more", onclick: () => {
    all = !all;
    show();
  } });
  root.dataset["testid"] = "limits";
  root.append(h("h2", {}, T.heading), rows, more);
  let all = false;
  /** @type {Limit[]} */
  let limits = [];

  function show() {
    const shown = all ? limits : limits.slice(0, FEW);
    while (rows.children.length > shown.length) rows.lastElementChild?.remove();
    while (rows.children.length < shown.length) rows.append(row());
    shown.forEach((limit, index) => update(/** @type {HTMLElement} */ (rows.children[index]), limit));
    more.hidden = limits.length <= FEW;
    setText(more, all ? T.fewer : T.more(limits.length));
    setAttribute(more, "aria-expanded", String(all));
  }

  return {
    /** @param {import("./types.js").Status | null} status */
    update(status) {
      limits = tightestFirst(status?.limits ?? []);
      // A single one is the gauge's already.
      root.hidden = limits.length < 2;
      if (!root.hidden) show();
    },
  };
}

function row() {
  const bar = h("span", { class: "limits-bar", "aria-hidden": "true" }, h("i", {}));
  return h("li", {}, h("span", { class: "limits-name" }), bar, h("span", { class: "limits-used" }), h("span", { class: "limits-binds" }));
}

/**
 * @param {HTMLElement} element
 * @param {Limit} limit
 */
function update(element, { kind, limit_bytes: limit, used_bytes: used, binds }) {
  const [name, bar, of, mark] = /** @type {HTMLElement[]} */ ([...element.children]);
  setText(name, nameLimit(kind));
  setAttribute(name, "title", kind);
  /** @type {HTMLElement} */ (bar.firstElementChild).style.width = `${Math.min(100, limit > 0 ? (100 * used) / limit : 100).toFixed(1)}%`;
  setText(of, T.of(formatBytes(used), formatBytes(limit)));
  setText(mark, binds ? T.binds : "");
  setAttribute(element, "data-binds", binds ? "" : null);
}
