// Colours of runs, which are those of palette.css, and of layers; each theme has its own, in the same order.

const NUM_COLOURS = 8;
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
// Viridis, from the first layer to the last.
const RAMP_LIGHT = ["#440154", "#414487", "#2a788e", "#22a884", "#58b13c", "#b8a500"];
const RAMP_DARK = ["#a98bd6", "#6f8fdc", "#3fb1c5", "#34c79a", "#8fd744", "#fde725"];

export const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");

/** The colour and the dashes of the run in a slot; beyond the eighth, colours come again with dashes. */
export function lineOf(slot) {
  return {
    colour: styled(`--c${slot % NUM_COLOURS}`), dash: DASHES[Math.floor(slot / NUM_COLOURS) % DASHES.length],
  };
}

/** The colour at a place from 0 to 1. */
export function ramp(place) {
  const colours = darkTheme.matches ? RAMP_DARK : RAMP_LIGHT;
  const at = Math.min(Math.max(place, 0), 1) * (colours.length - 1);
  const first = Math.min(Math.floor(at), colours.length - 2);
  const mixed = [1, 3, 5].map((start) => {
    const [from, to] = [colours[first], colours[first + 1]].map((hex) => parseInt(hex.slice(start, start + 2), 16));
    return Math.round(from + (to - from) * (at - first)).toString(16).padStart(2, "0");
  });
  return `#${mixed.join("")}`;
}

/** A colour of the page's style, by its name. */
export function styled(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
