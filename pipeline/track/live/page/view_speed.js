// How fast each chosen run is and what holds it back, and what its gradients say of its batch size.

import { getTable } from "./api.js";
import { bandOf } from "./chart_list.js";
import { Chart } from "./chart.js";
import { arrange, el, setText, swatch } from "./dom.js";
import { duration, whole, withUnit } from "./format.js";
import { COCKPIT, SHARES } from "./names.js";
import { newest } from "./series.js";
import { tableOf } from "./table.js";

const NOISE = "grad/noise_scale_images";

export function createSpeed() {
  const element = el("div", { class: "cards" });
  const cards = new Map();

  function update(state) {
    for (const [id, card] of cards) {
      if (state.chosen.some((run) => run.id === id)) continue;
      card.chart.remove();
      cards.delete(id);
    }
    arrange(element, state.chosen.map((run) => {
      if (!cards.has(run.id)) cards.set(run.id, new SpeedCard());
      cards.get(run.id).show(run, state);
      return cards.get(run.id).element;
    }));
  }

  return { id: "speed", title: "Speed and batch", element, update };
}

class SpeedCard {
  constructor() {
    this.name = el("strong");
    this.swatch = swatch("");
    this.progress = el("progress", { max: 1 });
    this.lines = el("ul", { class: "plain" });
    this.shares = el("div", { class: "shares", hidden: true });
    this.advice = el("p", { class: "advice" });
    this.table = el("div");
    this.chart = new Chart(NOISE, "Gradient noise scale");
    this.element = el("article", { class: "card" }, [
      el("h2", {}, [this.swatch, this.name]), this.progress, this.lines, this.shares,
      el("h3", {}, ["Batch size"]), this.advice, this.table, this.chart.element,
    ]);
    this.tableKey = "";
  }

  show(run, state) {
    setText(this.name, run.name);
    this.swatch.style.background = run.colour;
    const { step, total_steps: total } = run.overview;
    this.progress.hidden = !total;
    if (total) this.progress.value = Math.min(1, step / total);
    const lines = linesOf(run);
    if (lines.join("\n") !== this.linesKey) this.lines.replaceChildren(...lines.map((line) => el("li", {}, [line])));
    this.linesKey = lines.join("\n");
    this.showShares(run);
    const cockpit = run.media.filter((one) => one.name === COCKPIT && one.kind === "table").at(-1);
    const advice = run.summary.batch_advice ?? cockpit?.caption;
    setText(this.advice, advice ?? "The gradient noise scale is not known (track.noise_scale_every_steps).");
    this.showTable(run, cockpit);
    const noise = run.series[NOISE];
    this.chart.element.hidden = !noise;
    if (!noise) return;
    const [low, high] = bandOf(NOISE).map((key) => run.series[key]?.[1]);
    const curve = { label: run.name, colour: run.colour, dash: [], x: noise[0], values: noise[1] };
    const isBand = low?.length === noise[0].length && high?.length === noise[0].length;
    const batch = run.config["batch.size"];
    const curves = [isBand ? { ...curve, low, high } : curve];
    if (typeof batch === "number") {
      const { x } = curve;
      const values = x.map(() => batch);
      curves.push({ label: "batch", isRule: true, colour: state.ink, dash: [6, 4], width: 1, x, values });
    }
    // The scale grows by orders of magnitude as training goes on.
    this.chart.show(curves, { ...state.settings, axis: "step", log: true });
  }

  showShares(run) {
    const shares = SHARES.map((name) => [name, newest(run.series[`rate/${name}_frac`])]);
    this.shares.hidden = shares.some(([, share]) => share === null);
    const key = JSON.stringify(shares);
    if (this.shares.hidden || key === this.sharesKey) return;
    this.sharesKey = key;
    this.shares.replaceChildren(...shares.map(([name, share]) => {
      const percent = Math.round(100 * share);
      const text = `${name} ${percent} %`;
      const part = el("span", { class: name, title: text }, [percent >= 12 ? text : ""]);
      part.style.flexGrow = share;
      return part;
    }));
  }

  showTable(run, cockpit) {
    const key = cockpit ? `${cockpit.file} ${cockpit.made}` : "";
    if (key === this.tableKey) return;
    this.tableKey = key;
    if (!cockpit) {
      this.table.replaceChildren();
      return;
    }
    getTable(run.id, cockpit).then(
      ({ columns, rows }) => { if (this.tableKey === key) this.table.replaceChildren(tableOf(columns, rows)); },
      () => { this.tableKey = ""; },
    );
  }
}

/** What is said of a run in a line each: how far, how fast, how long yet, what held it back. */
function linesOf(run) {
  const { state, step, total_steps: total } = run.overview;
  const rate = newest(run.series["rate/images_per_s"]);
  const lines = [`${state}, step ${whole(step)}${total ? ` of ${whole(total)}` : ""}`];
  const batch = run.config["batch.size"];
  if (state === "running" && total > step && rate && typeof batch === "number") {
    lines.push(`about ${duration(((total - step) * batch) / rate)} of training left`);
  }
  const measured = run.summary["rate/images_per_s"] ?? rate;
  if (measured) lines.push(withUnit("rate/images_per_s", measured));
  const wait = run.summary["rate/data_wait_frac"] ?? newest(run.series["rate/data_wait_frac"]);
  if (wait !== null && wait !== undefined) lines.push(`${withUnit("_frac", wait, 3)} of the time waiting for data`);
  for (const [key, text] of [["rate/mfu_frac", "of the peak FLOP/s"], ["gpu/use_frac", "GPU use"]]) {
    const value = newest(run.series[key]);
    if (value !== null) lines.push(`${withUnit(key, value, 3)} ${text}`);
  }
  if (run.summary.wall_s) lines.push(`${duration(run.summary.wall_s)} in all`);
  const bound = run.summary.bounded_by;
  lines.push(bound ? `bounded by ${bound}` : "what bounds the speed is measured at the run's end");
  return lines;
}
