/** `.empty`: no runs yet, and the lines to copy that change this. */

import { h, setText } from "./dom.js";
import { STRINGS } from "./strings.js";

const COPIED_MS = 2000;

/** @param {HTMLElement} root */
export function mountEmpty(root) {
  root.dataset["testid"] = "empty";
  root.append(
    h("h2", {}, STRINGS.empty.heading),
    h("p", {}, STRINGS.empty.lead),
    snippet(STRINGS.empty.code),
    h("p", {}, STRINGS.empty.or),
    snippet(STRINGS.empty.demo),
  );
}

/** @param {string} text */
function snippet(text) {
  const code = h("code", {}, text);
  const button = h("button", { type: "button", class: "button", onclick: () => copy(text, code, button) }, STRINGS.empty.copy);
  return h("div", { class: "empty-code" }, h("pre", {}, code), button);
}

/**
 * @param {string} text
 * @param {HTMLElement} code
 * @param {HTMLElement} button
 */
async function copy(text, code, button) {
  try {
    await navigator.clipboard.writeText(text);
    setText(button, STRINGS.empty.copied);
    setTimeout(() => setText(button, STRINGS.empty.copy), COPIED_MS);
  } catch {
    // No clipboard away from localhost and https: select it, so that Ctrl-C does the rest.
    getSelection()?.selectAllChildren(code);
  }
}
