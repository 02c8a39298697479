/** `.state`: a run's state by shape, word and colour. */

import { h, setAttribute, setText } from "./dom.js";
import { STRINGS } from "./strings.js";

export function mountState() {
  const shape = h("span", { class: "state-shape", "aria-hidden": "true" });
  const word = h("span", {});
  const element = h("span", { class: "state", "data-testid": "state" }, shape, word);
  return {
    element,
    /**
     * @param {import("./types.js").RunSummary} run
     * @param {import("./sources.js").Trouble["kind"] | null} [found]
     */
    update(run, found = null) {
      // A verdict of a run that lives is of one of its sources.
      const trouble = run.state !== "live" ? found : run.verdict ? "lost" : found ?? known(run.trouble);
      setAttribute(element, "data-state", trouble ?? run.state);
      setText(shape, STRINGS.shape[trouble ?? run.state]);
      setText(word, trouble ? STRINGS.trouble[trouble] : wordOf(run));
      setAttribute(element, "title", run.verdict?.text ?? null);
    },
  };
}

/**
 * @param {string | null | undefined} trouble as the server has it
 * @returns {import("./sources.js").Trouble["kind"] | null} none that this page has no word for
 */
function known(trouble) {
  return trouble === "hung" || trouble === "critical" ? trouble : null;
}

/**
 * How it ended, where there is a word for it that says more than the state.
 *
 * @param {import("./types.js").RunSummary} run
 */
function wordOf({ state, outcome, verdict }) {
  const words = /** @type {Record<string, string>} */ (STRINGS.ending);
  const ending = verdict?.ending ?? outcome?.type ?? "";
  const ended = state === "died" || state === "failed" || (state === "silent" && verdict?.inferred);
  return (ended && Object.hasOwn(words, ending) ? words[ending] : null) ?? STRINGS.state[state];
}
