/** `.facts`: the few figures that one looks for first. */

import { h, setText } from "./dom.js";
import { formatBytes, formatCount, formatDuration, formatOrdinal } from "./format.js";
import { batchTime } from "./series.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.facts;

/** @param {HTMLElement} root */
export function mountFacts(root) {
  /** @param {string} name */
  const fact = (name) => {
    const value = h("dd", { "data-fact": name });
    const label = h("dt", {}, /** @type {Record<string, any>} */ (T)[name]);
    root.append(h("div", {}, label, value));
    return { value, label };
  };
  const [epoch, batch, time, peak, samples] = ["epoch", "batch", "time", "peak", "samples"].map(fact);
  root.dataset["testid"] = "facts";

  return {
    /**
     * @param {import("./types.js").RunSummary} run
     * @param {import("./types.js").Series | null} series
     * @param {boolean} batches whether there are any to count
     */
    update(run, series, batches) {
      for (const { value } of [epoch, batch, time]) /** @type {HTMLElement} */ (value.parentElement).hidden = !batches;
      const stepped = run.step !== null && run.steps_per_epoch !== null;
      setText(epoch.value, T.of(formatOrdinal(run.epoch), run.epochs === null ? null : formatCount(run.epochs)));
      setText(batch.value, stepped ? T.of(formatOrdinal(run.step), formatCount(run.steps_per_epoch)) : formatOrdinal(run.batch));
      setText(batch.label, stepped ? T.batchOfEpoch : T.batch);
      setText(time.value, formatDuration(series && batchTime(series)));
      setText(peak.value, formatBytes(run.peak_bytes));
      setText(samples.value, formatCount(run.samples));
    },
  };
}
