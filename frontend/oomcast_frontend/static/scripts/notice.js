/** `.notice`: the calm strip that says when the page has lost its server, or its key. */

import { rich, setAttribute } from "./dom.js";
import { STRINGS } from "./strings.js";

/** A blink of the connection is nobody's business. */
const PATIENCE_MS = 600;

/** @param {HTMLElement} root */
export function mountNotice(root) {
  setAttribute(root, "role", "status");
  setAttribute(root, "data-testid", "notice");
  let shown = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;

  /** @param {string} text */
  function show(text) {
    root.replaceChildren(...rich(text));
    root.hidden = text === "";
  }

  show("");
  return {
    /** @param {import("./store.js").State} state */
    update({ connection }) {
      const text = connection === "lost" ? STRINGS.connection.lost : connection === "denied" ? STRINGS.connection.denied : "";
      setAttribute(root, "data-connection", connection);
      if (text === shown) return;
      shown = text;
      clearTimeout(timer);
      if (text === STRINGS.connection.lost) timer = setTimeout(() => show(text), PATIENCE_MS);
      else show(text);
    },
  };
}
