// Which charts metrics make, by their names alone: train/x and val/x share one, layers/<quantity>/<layer> is a curve of
// its quantity's, and beside x_low_unit and x_high_unit the curve of x_unit gets a band.

import { EPOCH, GROUP_TITLES, LAYERS, QUALITY, QUALITY_ORDER, SPLITS, UNITS } from "./names.js";

const ENDINGS = UNITS.map((unit) => `_${unit}`);

/** The names of the ends of a metric's band. */
export function bandOf(key) {
  const unit = ENDINGS.find((ending) => key.endsWith(ending)) ?? "";
  const stem = key.slice(0, key.length - unit.length);
  return [`${stem}_low${unit}`, `${stem}_high${unit}`];
}

/** Return {group, title, charts: [{key, title, metrics}]} for runs' series, what matters most first. */
export function groupsOf(runs) {
  const keys = new Set(runs.flatMap((run) => Object.keys(run.series)));
  const bands = [...keys].map((key) => bandOf(key)).filter((band) => band.every((end) => keys.has(end)));
  const ends = new Set(bands.flat());
  const groups = new Map();
  for (const key of keys) {
    if (key === EPOCH || ends.has(key) || layerOf(key)) continue;
    const [first, ...rest] = key.split("/");
    const isSplit = SPLITS.includes(first) && rest.length === 1;
    const group = isSplit ? QUALITY : rest.length ? first : "other";
    const chartKey = isSplit ? `${QUALITY}/${rest[0]}` : key;
    if (!groups.has(group)) groups.set(group, new Map());
    const charts = groups.get(group);
    if (!charts.has(chartKey)) charts.set(chartKey, { key: chartKey, title: titleOf(runs, key), metrics: [] });
    charts.get(chartKey).metrics.push(key);
  }
  return [...groups].sort(byPlace(Object.keys(GROUP_TITLES))).map(([group, charts]) => ({
    group,
    title: Object.hasOwn(GROUP_TITLES, group) ? GROUP_TITLES[group] : group,
    charts: [...charts].sort(byPlace(QUALITY_ORDER.map((name) => `${QUALITY}/${name}`))).map(([, chart]) => ({
      ...chart, metrics: chart.metrics.sort(),
    })),
  }));
}

/** Return {key, title, metrics: [{key, layer}]} for each quantity of a run's layers, in the model's order. */
export function layerCharts(run) {
  const charts = new Map();
  for (const key of Object.keys(run.series)) {
    const layer = layerOf(key);
    if (!layer) continue;
    const [, quantity] = key.split("/");
    if (!charts.has(quantity)) {
      const chartKey = `${LAYERS}/${quantity}`;
      charts.set(quantity, { key: chartKey, title: titleOf([run], chartKey), metrics: [] });
    }
    charts.get(quantity).metrics.push({ key, layer });
  }
  return [...charts.values()];
}

/** The layer that a metric is of, or nothing. */
function layerOf(key) {
  const [first, , ...layer] = key.split("/");
  return first === LAYERS ? layer.join("/") : "";
}

function titleOf(runs, key) {
  return runs.map((run) => run.titles[key]).find(Boolean) ?? key;
}

function byPlace(order) {
  const place = (key) => (order.includes(key) ? order.indexOf(key) : order.length);
  return ([a], [b]) => place(a) - place(b) || a.localeCompare(b);
}
