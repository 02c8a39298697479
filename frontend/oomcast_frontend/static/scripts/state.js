/** `.state`: a run's state by shape, word and colour. */

import { h, setAttribute, setText } from "./dom.js";
import { STRINGS } from "./strings.js";

export function mountState() {
  const shape = h("span", { class: "state-shape", "aria-hidden": "true" });
  const word = h("span", {});
  const element = h("span", { class: "state", "data-testid": "state" }, shape, word);
  return {
    element,
    /** @param {import("./types.js").RunSummary} run */
    update({ state, outcome }) {
      setAttribute(element, "data-state", state);
      setText(shape, STRINGS.shape[state]);
      setText(word, state === "died" && outcome?.type === "oom killed" ? STRINGS.outOfMemory : STRINGS.state[state]);
    },
  };
}
