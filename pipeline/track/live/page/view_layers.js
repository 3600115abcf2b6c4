// One run's layers: a chart a quantity, a curve a layer, coloured from the first layer to the last.

import { layerCharts } from "./chart_list.js";
import { Chart } from "./chart.js";
import { ramp } from "./colours.js";
import { arrange, el, swatch } from "./dom.js";
import { factorOf } from "./series.js";

const LEGEND_LAYERS = 12;

export function createLayers() {
  const picker = el("select", { "aria-label": "Run" });
  const legend = el("div", { class: "legend" });
  const place = el("div", { class: "charts" });
  const empty = el("p", { class: "note" });
  const bar = el("div", { class: "bar" }, [el("label", {}, ["run ", picker]), legend]);
  const element = el("div", {}, [bar, place, empty]);
  const charts = new Map();
  let shown = null;
  picker.addEventListener("change", () => shown && update(shown));

  function update(state) {
    shown = state;
    const options = state.chosen.map((run) => [run.id, run.name]);
    if (JSON.stringify(options) !== picker.dataset.options) {
      const before = picker.value;
      picker.replaceChildren(...options.map(([value, name]) => el("option", { value }, [name])));
      picker.dataset.options = JSON.stringify(options);
      if (options.some(([value]) => value === before)) picker.value = before;
    }
    const run = state.chosen.find(({ id }) => id === picker.value) ?? state.chosen[0];
    const factor = run ? factorOf(run, state.settings.axis) : null;
    const listed = run && factor !== null ? layerCharts(run) : [];
    arrange(place, listed.map(({ key, title, metrics }) => {
      if (!charts.has(key)) charts.set(key, new Chart(key, title));
      charts.get(key).show(metrics.map(({ key: metric, layer }, number) => {
        const [steps, values] = run.series[metric];
        const x = factor === 1 ? steps : steps.map((step) => step * factor);
        return { label: layer, colour: colourOf(number, metrics.length), dash: [], x, values };
      }), state.settings);
      return charts.get(key).element;
    }));
    for (const [key, chart] of charts) {
      if (listed.some((one) => one.key === key)) continue;
      chart.remove();
      charts.delete(key);
    }
    const layers = listed.length ? listed.reduce((a, b) => (b.metrics.length > a.metrics.length ? b : a)).metrics : [];
    const told = layers.length > LEGEND_LAYERS ? [0, layers.length - 1] : layers.map((_, number) => number);
    legend.replaceChildren(...told.map((number) => (
      el("span", {}, [swatch(colourOf(number, layers.length)), layers[number].layer])
    )));
    empty.textContent = listed.length || !run ? "" : `${run.name} has no rows on its layers (track.layers_every_steps)`;
  }

  return { id: "layers", title: "Layers", element, update };
}

function colourOf(number, count) {
  return ramp(count > 1 ? number / (count - 1) : 0);
}
