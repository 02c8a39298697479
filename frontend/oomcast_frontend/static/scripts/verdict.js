/** `.verdict`: how sure it is what ended a run, by what evidence, how it stood then, and what to do. */

import { h, rich, setAttribute, setChildren, setText } from "./dom.js";
import { reportOf } from "./reports.js";
import { STRINGS } from "./strings.js";

const T = STRINGS.verdict;

/** @param {HTMLElement} root */
export function mountVerdict(root) {
  const shape = h("span", { class: "verdict-shape", "aria-hidden": "true" });
  const word = h("span", {});
  const grade = h("p", { class: "verdict-grade", "data-testid": "grade" }, shape, word);
  const facts = h("dl", { class: "verdict-facts" });
  const advice = part("advice", T.advice);
  const evidence = part("evidence", T.evidence);
  const processes = part("processes", T.processes);
  root.dataset["testid"] = "verdict";
  setAttribute(root, "aria-label", T.label);
  const all = h("div", { class: "verdict-parts" }, advice.element, evidence.element, processes.element);
  root.append(grade, facts, all);
  let key = "";

  return {
    /**
     * @param {import("./types.js").Verdict | null} verdict null: nothing is to be told
     * @param {string | null} who of several sources, whose it is
     */
    update(verdict, who) {
      root.hidden = verdict === null;
      const now = JSON.stringify([verdict, who]);
      if (verdict === null || now === key) return;
      key = now;
      const report = reportOf(verdict);
      setAttribute(root, "data-grade", verdict.grade);
      setText(shape, report.grade.shape);
      setText(word, [report.grade.word, who].filter(Boolean).join(" · "));
      facts.hidden = report.facts.length === 0;
      setChildren(facts, report.facts.map(({ label, value }) => h("div", {}, h("dt", {}, label), h("dd", {}, value))));
      advice.update(report.advice);
      evidence.update(report.evidence);
      processes.update(report.processes);
      all.hidden = [...all.children].every((child) => /** @type {HTMLElement} */ (child).hidden);
    },
  };
}

/**
 * @param {string} name
 * @param {string} heading
 */
function part(name, heading) {
  const list = h("ul", { "data-testid": name });
  const element = h("section", { class: `verdict-${name}` }, h("h2", {}, heading), list);
  return {
    element,
    /** @param {string[]} lines */
    update(lines) {
      element.hidden = lines.length === 0;
      setChildren(list, lines.map((line) => h("li", {}, ...rich(line))));
    },
  };
}
