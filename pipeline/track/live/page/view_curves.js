// All metrics of the chosen runs, a chart each, runs over one another.

import { bandOf, groupsOf } from "./chart_list.js";
import { Chart } from "./chart.js";
import { arrange, el, swatch } from "./dom.js";
import { withUnit } from "./format.js";
import { factorOf, newest } from "./series.js";

const TRAIN_DASH = [4, 4];

export function createCurves() {
  const search = el("input", { type: "search", placeholder: "filter metrics", "aria-label": "Filter metrics" });
  const legend = el("div", { class: "legend" });
  const groups = el("div");
  const once = el("section", { hidden: true });
  const element = el("div", {}, [el("div", { class: "bar" }, [search, legend]), groups, once]);
  const charts = new Map();
  const sections = new Map();
  let shown = null;
  search.addEventListener("input", () => shown && update(shown));

  function update(state) {
    shown = state;
    const wanted = search.value.trim().toLowerCase();
    const lengths = state.chosen.flatMap((run) => Object.values(run.series).map(([steps]) => steps.length));
    const isEarly = Math.max(0, ...lengths) < 2;
    const used = new Set();
    const single = [];
    const parts = groupsOf(state.chosen).flatMap(({ group, title, charts: listed }) => {
      const drawn = listed.filter((chart) => {
        const text = `${chart.title} ${chart.key} ${chart.metrics.join(" ")}`.toLowerCase();
        if (!text.includes(wanted)) return false;
        const isShort = (key) => state.chosen.every((run) => (run.series[key]?.[0].length ?? 0) < 2);
        const isOnce = chart.metrics.every(isShort);
        if (isOnce && !isEarly) single.push(...chart.metrics);
        return !isOnce || isEarly;
      });
      if (!drawn.length) return [];
      if (!sections.has(group)) {
        const place = el("div", { class: "charts" });
        sections.set(group, { place, element: el("section", {}, [el("h2", {}, [title]), place]) });
      }
      const { place, element: section } = sections.get(group);
      arrange(place, drawn.map(({ key, title: name, metrics }) => {
        if (!charts.has(key)) charts.set(key, new Chart(key, name));
        charts.get(key).tellMetrics(metrics);
        used.add(key);
        charts.get(key).show(state.chosen.flatMap((run) => curvesOf(run, metrics, state.settings)), state.settings);
        return charts.get(key).element;
      }));
      return [section];
    });
    for (const [key, chart] of charts) {
      if (used.has(key)) continue;
      chart.remove();
      charts.delete(key);
    }
    arrange(groups, parts);
    showSingle(once, single, state.chosen);
    legend.replaceChildren(...state.chosen.map((run) => el("span", {}, [swatch(run.colour), run.name])));
    if (hasSplits(state)) legend.append(el("span", { class: "faint" }, ["dashed: training, whole: evaluation"]));
  }

  return { id: "curves", title: "Curves", element, update };
}

function hasSplits(state) {
  return state.chosen.some((run) => Object.keys(run.series).some((key) => key.startsWith("val/")));
}

function curvesOf(run, metrics, settings) {
  const factor = factorOf(run, settings.axis);
  if (factor === null) return [];
  return metrics.filter((key) => run.series[key]).map((key) => {
    const [steps, values] = run.series[key];
    const [low, high] = bandOf(key).map((end) => run.series[end] && valuesAt(run.series[end], steps));
    const isSplit = key.startsWith("train/") || key.startsWith("val/");
    return {
      label: isSplit ? `${run.name} ${key.split("/")[0]}` : run.name,
      colour: run.colour,
      dash: key.startsWith("train/") ? TRAIN_DASH : run.dash,
      width: key.startsWith("val/") ? 2 : 1.5,
      x: factor === 1 ? steps : steps.map((step) => step * factor),
      values,
      low: high ? low : undefined,
      high: low ? high : undefined,
    };
  });
}

function valuesAt([steps, values], wanted) {
  const known = new Map(steps.map((step, place) => [step, values[place]]));
  return wanted.map((step) => known.get(step) ?? null);
}

/** A table of what was logged at one step alone, such as what was measured at the end. */
function showSingle(section, metrics, runs) {
  section.hidden = !metrics.length;
  const rows = metrics.map((key) => el("tr", {}, [
    el("th", { scope: "row" }, [el("code", {}, [key])]),
    ...runs.map((run) => el("td", {}, [run.series[key] ? withUnit(key, newest(run.series[key])) : "–"])),
  ]));
  const head = el("tr", {}, [el("th", {}, []), ...runs.map((run) => el("th", { scope: "col" }, [run.name]))]);
  const table = el("table", {}, [el("thead", {}, [head]), el("tbody", {}, rows)]);
  section.replaceChildren(el("h2", {}, ["Logged once"]), el("div", { class: "wide" }, [table]));
}
