// The list of all runs, the newest first: which are chosen, at work, how far and how good.

import { arrange, el, setText } from "./dom.js";
import { cell, whole, withUnit } from "./format.js";
import { QUALITY_KEYS } from "./names.js";

const MOST_AT_ONCE = 50;
const MOST_DIFFERENCES = 4;

export class Sidebar {
  /** Call `onChoose` with ids whenever somebody chooses. */
  constructor(state, onChoose) {
    this.state = state;
    this.onChoose = onChoose;
    this.rows = new Map();
    this.shown = [];
    this.filter = document.getElementById("filter");
    this.list = document.getElementById("runs");
    this.count = document.getElementById("count");
    this.filter.addEventListener("input", () => this.update());
    document.getElementById("none").addEventListener("click", () => onChoose([]));
    document.getElementById("all").addEventListener("click", () => (
      onChoose(this.shown.slice(0, MOST_AT_ONCE).map((overview) => overview.id))
    ));
  }

  update() {
    const { overviews, chosenIds, runs } = this.state;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = overviews.filter((overview) => {
      const text = `${overview.name} ${overview.state} ${differencesOf(overview).join(" ")}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const chosen = new Set(chosenIds);
    arrange(this.list, this.shown.map((overview) => {
      if (!this.rows.has(overview.id)) this.rows.set(overview.id, this.makeRow(overview.id));
      const row = this.rows.get(overview.id);
      row.show(overview, chosen.has(overview.id), runs.get(overview.id)?.colour);
      return row.element;
    }));
    const known = new Set(overviews.map((overview) => overview.id));
    for (const id of this.rows.keys()) if (!known.has(id)) this.rows.delete(id);
    const matching = words.length ? `, ${whole(this.shown.length)} match` : "";
    const told = `${chosen.size} of ${whole(overviews.length)} chosen${matching}`;
    setText(this.count, overviews.length ? told : "no runs yet: make train");
  }

  makeRow(id) {
    const box = el("input", { type: "checkbox", onchange: () => {
      const { chosenIds } = this.state;
      this.onChoose(box.checked ? [...chosenIds, id] : chosenIds.filter((other) => other !== id));
    } });
    const only = el("button", { type: "button", class: "only", onclick: () => this.onChoose([id]) }, ["only"]);
    const mark = el("span", { class: "swatch" });
    const parts = ["name", "state", "line", "options"].map((part) => el("span", { class: part }));
    const [name, state, line, options] = parts;
    const element = el("li", { "data-id": id }, [el("label", {}, [box, mark, name, state]), only, line, options]);
    function show(overview, isChosen, colour) {
      box.checked = isChosen;
      mark.style.background = colour ?? "transparent";
      setText(name, overview.name);
      setText(state, overview.state);
      state.className = `state ${overview.state}`;
      setText(line, lineOf(overview));
      const differences = differencesOf(overview);
      setText(options, differences.slice(0, MOST_DIFFERENCES).join("  "));
      options.title = differences.join("\n");
    }
    return { element, show };
  }
}

function lineOf({ step, total_steps: total, last }) {
  const parts = [`step ${whole(step)}${total ? ` of ${whole(total)}` : ""}`];
  const quality = QUALITY_KEYS.find((key) => last[key] !== undefined);
  if (quality) parts.push(withUnit(quality, last[quality], 3));
  if (last["train/loss"] !== undefined) parts.push(`loss ${withUnit("", last["train/loss"], 3)}`);
  return parts.join(", ");
}

function differencesOf(overview) {
  return Object.entries(overview.differs).map(([name, value]) => `${name}=${cell(value)}`);
}
