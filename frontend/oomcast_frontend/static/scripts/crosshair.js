/**
 * `.crosshair`: the layer over a plot that takes pointer and keys: it moves the shared crosshair and picks a stretch to
 * zoom to. It thinks in fractions of the plot's width; its owner knows what x that is.
 */

import { h } from "./dom.js";

/** A shorter drag is a click with an unsteady hand. */
const DRAG_PX = 6;

/**
 * @typedef {object} Actions
 * @property {(at: number | null) => void} onMove 0 to 1; null: gone
 * @property {(from: number, to: number) => void} onZoom
 * @property {() => void} onAll
 * @property {(steps: number) => void} onStep by keyboard
 * @property {(factor: number) => void} onScale by keyboard
 */

/**
 * @param {string} label
 * @param {Actions} actions
 */
export function mountCrosshair(label, actions) {
  const hair = h("div", { class: "crosshair-line" });
  const brush = h("div", { class: "crosshair-brush" });
  const element = h("div", { class: "crosshair", tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-label": label }, brush, hair);
  hair.hidden = true;
  brush.hidden = true;
  /** @type {number | null} */
  let start = null;

  /** @param {PointerEvent} event */
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };

  /** @param {PointerEvent} event */
  const wide = (event) => start !== null && Math.abs(at(event) - start) * element.clientWidth >= DRAG_PX;

  element.addEventListener("pointerdown", (event) => {
    // A finger scrolls the page and moves the crosshair; only a mouse or a pen drags.
    if (event.button !== 0 || event.pointerType === "touch") return;
    start = at(event);
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    actions.onMove(at(event));
    brush.hidden = !wide(event);
    if (start === null) return;
    const [from, to] = [start, at(event)].sort((a, b) => a - b);
    brush.style.left = `${from * 100}%`;
    brush.style.width = `${(to - from) * 100}%`;
  });
  element.addEventListener("pointerup", (event) => {
    const [from, to] = [start ?? 0, at(event)].sort((a, b) => a - b);
    const zoomed = wide(event);
    start = null;
    brush.hidden = true;
    if (zoomed) actions.onZoom(from, to);
  });
  element.addEventListener("pointercancel", () => {
    start = null;
    brush.hidden = true;
  });
  element.addEventListener("pointerleave", () => {
    if (start === null) actions.onMove(null);
  });
  element.addEventListener("blur", () => actions.onMove(null));
  element.addEventListener("dblclick", () => actions.onAll());
  element.addEventListener("keydown", (event) => onKey(event, actions));

  return {
    element,
    /** @param {number | null} fraction */
    show(fraction) {
      hair.hidden = fraction === null || fraction < 0 || fraction > 1;
      if (fraction !== null) hair.style.left = `${fraction * 100}%`;
    },
  };
}

/**
 * @param {KeyboardEvent} event
 * @param {Actions} actions
 */
function onKey(event, actions) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const far = event.shiftKey ? 10 : 1;
  /** @type {Record<string, () => void>} */
  const keys = {
    ArrowLeft: () => actions.onStep(-far),
    ArrowRight: () => actions.onStep(far),
    Home: () => actions.onStep(-Infinity),
    End: () => actions.onStep(Infinity),
    Escape: () => actions.onMove(null),
    "+": () => actions.onScale(0.5),
    "=": () => actions.onScale(0.5),
    "-": () => actions.onScale(2),
    0: () => actions.onAll(),
  };
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}
