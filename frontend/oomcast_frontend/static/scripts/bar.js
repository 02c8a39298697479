/** `.bar`: the strip on top, with the way back and the switch of the theme. */

import { h, setAttribute, setText } from "./dom.js";
import { STRINGS } from "./strings.js";
import { currentTheme } from "./theme.js";

/**
 * @param {HTMLElement} root
 * @param {{onTheme: () => void}} actions
 */
export function mountBar(root, { onTheme }) {
  const crumbs = h("nav", { class: "bar-crumbs", "aria-label": STRINGS.run.breadcrumb });
  const theme = h("button", { class: "bar-theme", type: "button", "data-testid": "theme", "aria-label": STRINGS.theme.label, title: STRINGS.theme.label, onclick: onTheme });
  const half = h("span", { class: "bar-half", "aria-hidden": "true" });
  const word = h("span", {});
  theme.append(half, word);
  const brand = h("a", { class: "bar-brand", href: "/" }, h("span", {}, STRINGS.brand[0]), h("i", {}, STRINGS.brand[1]));
  root.append(brand, crumbs, theme);

  return {
    /** @param {import("./store.js").State} state */
    update(state) {
      setText(word, currentTheme() === "dark" ? STRINGS.theme.toLight : STRINGS.theme.toDark);
      updateCrumbs(crumbs, state);
    },
  };
}

/**
 * @param {HTMLElement} crumbs
 * @param {import("./store.js").State} state
 */
function updateCrumbs(crumbs, state) {
  const detail = state.run?.detail;
  const parts = state.route.page === "runs" ? [] : [STRINGS.run.back, ...(detail ? [detail.project, detail.name] : [])];
  const key = parts.join("\n");
  if (crumbs.dataset["key"] === key) return;
  crumbs.dataset["key"] = key;
  crumbs.replaceChildren(...parts.map((part, index) =>
    index === 0 ? h("a", { href: "/" }, part) : h(index === 2 ? "strong" : "span", { title: part }, part)));
  if (detail) setAttribute(/** @type {Element} */ (crumbs.lastElementChild), "aria-current", "page");
}
