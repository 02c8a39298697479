/** `.controls`: what all charts share: the x axis, the stretch of it, and following. */

import { h, setAttribute } from "./dom.js";
import { chosen, hasBatches } from "./sources.js";
import { WINDOWS_MS, hasEnded } from "./store.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.controls;

/**
 * @typedef {import("./types.js").XAxis} XAxis
 * @typedef {import("./types.js").WindowName} WindowName
 */

/** @type {XAxis[]} */
const AXES = ["batch", "time"];
/** @type {WindowName[]} */
const WINDOWS = ["15m", "1h", "all"];

/**
 * @param {HTMLElement} root
 * @param {{onX: (axis: XAxis) => void, onWindow: (name: WindowName) => void, onFollow: () => void, onAll: () => void}} actions
 */
export function mountControls(root, { onX, onWindow, onFollow, onAll }) {
  const axes = segment(T.axis, AXES, (name) => T[name], onX, "x");
  const windows = segment(T.window, WINDOWS, (name) => T[name], onWindow, "window");
  const reset = h("button", { type: "button", class: "button", "data-testid": "reset", onclick: onAll }, T.reset);
  const follow = h("button", { type: "button", class: "button button-first", "data-testid": "follow", onclick: onFollow }, T.follow);
  const following = h("span", { class: "controls-following", "data-testid": "following" }, h("i", { "aria-hidden": "true" }, "●"), ` ${T.following}`);
  root.append(axes.element, windows.element, reset, follow, following);

  return {
    /** @param {import("./store.js").RunPage} run */
    update({ view, detail, source }) {
      const live = detail !== null && !hasEnded(detail) && !detail.verdict?.inferred;
      const span_ms = detail ? (detail.last_ms ?? detail.created_ms) - detail.created_ms : 0;
      axes.update(view.x);
      axes.element.hidden = !hasBatches(chosen(detail, source));
      windows.update(view.range ? null : view.window);
      windows.element.hidden = span_ms < WINDOWS_MS["15m"];
      reset.hidden = view.range === null || live;
      follow.hidden = view.follow || !live;
      following.hidden = !view.follow || !live;
    },
  };
}

/**
 * @template {string} Name
 * @param {string} label
 * @param {Name[]} names
 * @param {(name: Name) => string} text
 * @param {(name: Name) => void} chosen
 * @param {string} testid
 */
function segment(label, names, text, chosen, testid) {
  const buttons = names.map((name) =>
    h("button", { type: "button", "data-testid": `${testid}-${name}`, onclick: () => chosen(name) }, text(name)));
  return {
    element: h("div", { class: "controls-segment", role: "group", "aria-label": label }, ...buttons),
    /** @param {Name | null} current */
    update(current) {
      buttons.forEach((button, index) => setAttribute(button, "aria-pressed", String(names[index] === current)));
    },
  };
}
