// Curves as plain values: [steps, values], steps ascending, null where a value was not finite. No element is touched.

import { EPOCH } from "./names.js";

// A page that has watched for long asks for everything again, thinned out, when a curve has so many points.
export const MOST_POINTS = 6000;

/** Append newer points to known series, in place; a step that is there already is replaced. */
export function append(known, newer) {
  for (const [key, [steps, values]] of Object.entries(newer)) {
    const [knownSteps, knownValues] = (known[key] ??= [[], []]);
    let count = knownSteps.length;
    while (count && steps.length && knownSteps[count - 1] >= steps[0]) count -= 1;
    knownSteps.length = knownValues.length = count;
    for (let i = 0; i < steps.length; i++) {
      knownSteps.push(steps[i]);
      knownValues.push(values[i]);
    }
  }
}

/** Exponential moving average, corrected for its start (as Adam's): 0 leaves values as they are. */
export function smoothed(values, weight) {
  let mean = 0;
  let share = 1;
  return values.map((value) => {
    if (value === null) return null;
    mean = weight * mean + (1 - weight) * value;
    share *= weight;
    return mean / (1 - share);
  });
}

/** What a logarithmic axis can show. */
export function positive(values) {
  return values.map((value) => (value !== null && value > 0 ? value : null));
}

/** What a step is in images or epochs: a run's factor, or null where it cannot be told. */
export function factorOf(run, axis) {
  if (axis === "step") return 1;
  if (axis === "images") return typeof run.config["batch.size"] === "number" ? run.config["batch.size"] : null;
  const [steps, epochs] = run.series[EPOCH] ?? [[], []];
  const last = steps.length - 1;
  return steps[last] && epochs[last] ? epochs[last] / steps[last] : null;
}

/** The value at the place, or at the nearest one that has a value, no farther than `reach` places. */
export function nearest(values, place, reach) {
  for (let away = 0; away <= reach; away++) {
    for (const at of [place - away, place + away]) {
      if (values[at] !== undefined && values[at] !== null) return at;
    }
  }
  return null;
}

/** Newest value that is finite, or null. */
export function newest(series) {
  const values = series?.[1] ?? [];
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i];
  return null;
}
