/** One of several, side by side: which GPU a chart shows. */

import { h, setAttribute, setText } from "./dom.js";

/**
 * @param {HTMLElement} root
 * @param {string} label
 * @param {(value: number) => void} chosen
 */
export function mountPicker(root, label, chosen) {
  setAttribute(root, "role", "group");
  setAttribute(root, "aria-label", label);

  return {
    /**
     * @param {{value: number, text: string, title: string}[]} options nothing is shown where there is no choice
     * @param {number | null} current
     */
    update(options, current) {
      root.hidden = options.length < 2;
      while (root.children.length > options.length) root.lastElementChild?.remove();
      while (root.children.length < options.length) {
        const button = h("button", { type: "button", onclick: () => chosen(Number(button.dataset["value"])) });
        root.append(button);
      }
      options.forEach(({ value, text, title }, index) => {
        const button = /** @type {HTMLElement} */ (root.children[index]);
        button.dataset["value"] = String(value);
        setText(button, text);
        setAttribute(button, "title", title || null);
        setAttribute(button, "aria-pressed", String(value === current));
      });
    },
  };
}
