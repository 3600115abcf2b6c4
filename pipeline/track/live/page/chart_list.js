// Which charts metrics make, by their names alone: train/x and val/x share one, layers/<quantity>/<layer> is a curve of
// its quantity's, and beside x_low_unit and x_high_unit the curve of x_unit gets a band.

const SPLITS = ["train", "val"];
const GROUPS = { quality: "Loss and accuracy", gap: "Generalisation gap", grad: "Gradients", rate: "Rates", gpu: "GPU",
  mem: "Memory" };
const QUALITY_ORDER = ["loss", "top1_frac", "map_frac", "top5_frac"];
const UNITS = ["_per_s", "_frac", "_bytes", "_images", "_s"];
// The axis of others.
const EPOCH = "epoch";
export const LAYERS = "layers/";

/** The names of the ends of a metric's band. */
export function bandOf(key) {
  const unit = UNITS.find((ending) => key.endsWith(ending)) ?? "";
  const stem = key.slice(0, key.length - unit.length);
  return [`${stem}_low${unit}`, `${stem}_high${unit}`];
}

/** Return {group, title, charts: [{key, title, metrics}]} for runs' series, what matters most first. */
export function groupsOf(runs) {
  const keys = new Set(runs.flatMap((run) => Object.keys(run.series)));
  const ends = new Set([...keys].flatMap((key) => bandOf(key)).filter((end) => keys.has(end)));
  const groups = new Map();
  for (const key of keys) {
    if (key === EPOCH || ends.has(key) || key.startsWith(LAYERS)) continue;
    const [first, ...rest] = key.split("/");
    const isSplit = SPLITS.includes(first) && rest.length === 1;
    const group = isSplit ? "quality" : rest.length ? first : "other";
    const chartKey = isSplit ? `quality/${rest[0]}` : key;
    if (!groups.has(group)) groups.set(group, new Map());
    const charts = groups.get(group);
    if (!charts.has(chartKey)) charts.set(chartKey, { key: chartKey, title: titleOf(runs, key), metrics: [] });
    charts.get(chartKey).metrics.push(key);
  }
  return [...groups].sort(byPlace(Object.keys(GROUPS))).map(([group, charts]) => ({
    group,
    title: GROUPS[group] ?? group,
    charts: [...charts].sort(byPlace(QUALITY_ORDER.map((name) => `quality/${name}`))).map(([, chart]) => ({
      ...chart, metrics: chart.metrics.sort(),
    })),
  }));
}

/** Return {key, title, metrics: [{key, layer}]} for each quantity of a run's layers, in the model's order. */
export function layerCharts(run) {
  const charts = new Map();
  for (const key of Object.keys(run.series)) {
    if (!key.startsWith(LAYERS)) continue;
    const [, quantity, ...layer] = key.split("/");
    if (!layer.length) continue;
    if (!charts.has(quantity)) {
      charts.set(quantity, { key: LAYERS + quantity, title: titleOf([run], LAYERS + quantity), metrics: [] });
    }
    charts.get(quantity).metrics.push({ key, layer: layer.join("/") });
  }
  return [...charts.values()];
}

function titleOf(runs, key) {
  return runs.map((run) => run.titles[key]).find(Boolean) ?? key;
}

function byPlace(order) {
  const place = (key) => (order.includes(key) ? order.indexOf(key) : order.length);
  return ([a], [b]) => place(a) - place(b) || a.localeCompare(b);
}
