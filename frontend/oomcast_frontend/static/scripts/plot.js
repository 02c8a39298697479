/** The only file that knows Plotly. */

/**
 * @typedef {object} PlotlyLike
 * @property {(element: HTMLElement, traces: object[], layout: object, config: object) => Promise<unknown>} react
 * @property {(element: HTMLElement) => void} purge
 */

// The page lays its own crosshair, zoom and buttons over the picture: Plotly draws, and listens to nothing.
const CONFIG = { staticPlot: true, displayModeBar: false, responsive: false };

/** @type {Promise<PlotlyLike> | null} */
let loading = null;

/**
 * Loads the bundle whose address index.html names, once.
 *
 * @returns {Promise<PlotlyLike>}
 */
export function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.querySelector('meta[name="plotly"]')?.getAttribute("content") ?? "";
    script.addEventListener("load", () => resolve(/** @type {any} */ (window).Plotly));
    script.addEventListener("error", () => {
      loading = null;
      reject(new Error("plotly"));
    });
    document.head.append(script);
  });
  return loading;
}

/**
 * Draws at once when the bundle is there, else as soon as it is.
 *
 * @param {HTMLElement} element
 * @param {import("./parts.js").Figure} figure
 * @returns {Promise<unknown>}
 */
export function draw(element, figure) {
  const plotly = /** @type {PlotlyLike | undefined} */ (/** @type {any} */ (window).Plotly);
  if (!plotly) return loadPlotly().then(() => draw(element, figure));
  return plotly.react(element, figure.traces, figure.layout, CONFIG);
}

/** @param {HTMLElement} element */
export function clear(element) {
  const plotly = /** @type {PlotlyLike | undefined} */ (/** @type {any} */ (window).Plotly);
  if (plotly && element.classList.contains("js-plotly-plot")) plotly.purge(element);
}
