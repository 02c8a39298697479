/** Light or dark: the system's choice, until the reader makes one, which is kept. */

const KEY = "oomcast.theme";
const COLOURS = [
  "ink", "ink-2", "ink-3", "grid", "rss", "peak", "swap", "major", "minor", "gpu", "time", "stall", "limit",
  "children", "some", "pool", "swap-out",
];

/** @returns {"light" | "dark"} */
function systemTheme() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** @returns {string | null} */
function kept() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // Storage may be switched off: then the choice lasts as long as the page.
  }
}

export function currentTheme() {
  return document.documentElement.dataset["theme"] === "dark" ? "dark" : "light";
}

/** @param {() => void} changed called after each change */
export function startTheme(changed) {
  const apply = () => {
    const choice = kept();
    document.documentElement.dataset["theme"] = choice === "dark" || choice === "light" ? choice : systemTheme();
    changed();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  addEventListener("storage", apply);
  apply();
  return {
    toggle() {
      const next = currentTheme() === "dark" ? "light" : "dark";
      document.documentElement.dataset["theme"] = next;
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // As above.
      }
      changed();
    },
  };
}

/** @returns {import("./types.js").Palette} the theme's colours as "rgb(…)", for those who can't read CSS variables */
export function palette() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const colours = COLOURS.map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  });
  probe.remove();
  return Object.fromEntries(colours);
}
