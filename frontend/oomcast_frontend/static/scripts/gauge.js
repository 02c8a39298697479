/** `.gauge`: how full the binding limit is. */

import { h, setAttribute, setText } from "./dom.js";
import { formatBytes, shortLimit } from "./format.js";
import { hasLittleFree } from "./sentence.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.gauge;

/** @param {HTMLElement} root */
export function mountGauge(root) {
  const [used, kind, free] = ["gauge-used", "gauge-kind", "gauge-free"].map((name) => h("span", { class: name }));
  const [own, other, peak] = ["gauge-own", "gauge-other", "gauge-peak"].map((name) => h("i", { class: name }));
  const bar = h("div", { class: "gauge-bar", role: "meter", "aria-label": T.label, "aria-valuemin": "0" }, own, other, peak);
  const keys = ["own", "other", "peak"].map((name) => h("span", { class: `gauge-key gauge-key-${name}` }));
  root.dataset["testid"] = "gauge";
  root.append(h("div", { class: "gauge-row" }, used, kind, free), bar, h("div", { class: "gauge-keys" }, ...keys));

  return {
    /**
     * @param {import("./types.js").RunSummary} run
     * @param {boolean} [critical]
     */
    update(run, critical = false) {
      const { limit_bytes: limit, working_set_bytes: charged, rss_bytes: rss, peak_bytes: highest } = run;
      root.hidden = !limit || charged === null;
      if (!limit || charged === null) return;
      // What is shared with others is in the RSS too, and may be charged to them: never draw more than is charged.
      const mine = Math.min(rss ?? charged, charged);
      setText(used, T.of(formatBytes(charged), formatBytes(limit)));
      setText(kind, run.limit_kind ? T.binds(shortLimit(run.limit_kind)) : "");
      kind.title = run.limit_kind ?? "";
      setText(free, limit < charged ? T.over(formatBytes(charged - limit)) : T.free(formatBytes(limit - charged)));
      setAttribute(root, "data-little", critical ? "critical" : hasLittleFree(run) ? "" : null);
      own.style.width = percent(mine, limit);
      other.style.width = percent(charged - mine, limit);
      // A peak of RSS has its place on this bar only where all of RSS is charged here.
      const comparable = (rss ?? 0) <= charged;
      peak.hidden = highest === null || highest > limit || !comparable;
      peak.style.left = percent(highest ?? 0, limit);
      setAttribute(bar, "aria-valuemax", String(limit));
      setAttribute(bar, "aria-valuenow", String(charged));
      setAttribute(bar, "aria-valuetext", `${used.textContent}, ${free.textContent}`);
      setText(keys[0], comparable ? T.process(formatBytes(rss)) : T.processPart(formatBytes(mine), formatBytes(rss)));
      setText(keys[1], T.other(formatBytes(charged - mine)));
      setText(keys[2], T.peak(formatBytes(highest)));
      keys[1].hidden = charged - mine < limit / 200;
      keys[2].hidden = peak.hidden;
    },
  };
}

/**
 * @param {number} part
 * @param {number} whole
 */
function percent(part, whole) {
  return `${Math.min(100, Math.max(0, (part / whole) * 100)).toFixed(2)}%`;
}
