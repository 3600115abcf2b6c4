// What the page knows and what is chosen. The address after # keeps the choice, so that a page can be reloaded or sent.

import { lineOf } from "./colours.js";
import { append, MOST_POINTS } from "./series.js";

// Until somebody chooses, runs at work are shown, at most so many, or else the newest.
const MOST_BY_ITSELF = 6;

/** An object that inherits no names, since a metric may be called anything. */
function nameless() {
  return Object.create(null);
}

export class State {
  constructor(hash) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    this.overviews = [];
    this.runs = new Map();
    this.isByHand = given.has("runs");
    this.chosenIds = given.getAll("runs").filter(Boolean);
    this.tab = given.get("tab") ?? "curves";
    this.settings = {
      axis: ["epoch", "images"].includes(given.get("x")) ? given.get("x") : "step",
      smoothing: Math.min(Math.max(Number(given.get("smoothing")) || 0, 0), 0.99),
      log: given.get("log") === "1",
    };
  }

  /** The choice as it stands in the address. */
  get hash() {
    const { axis, smoothing, log } = this.settings;
    const kept = new URLSearchParams({ tab: this.tab });
    if (axis !== "step") kept.set("x", axis);
    if (smoothing) kept.set("smoothing", smoothing);
    if (log) kept.set("log", "1");
    if (this.isByHand) for (const id of this.chosenIds.length ? this.chosenIds : [""]) kept.append("runs", id);
    return `#${kept}`;
  }

  /** Chosen runs that have been read, in the order in which they were chosen. */
  get chosen() {
    return this.chosenIds.map((id) => this.runs.get(id)).filter((run) => run?.about);
  }

  /** Take the list of all runs; what is not there any longer is not chosen any longer. */
  setOverviews(overviews) {
    this.overviews = overviews;
    const known = new Map(overviews.map((overview) => [overview.id, overview]));
    if (!this.isByHand) {
      const atWork = overviews.filter((overview) => overview.state === "running").slice(0, MOST_BY_ITSELF);
      this.chosenIds = (atWork.length ? atWork : overviews.slice(0, 1)).map((overview) => overview.id);
    }
    this.chosenIds = this.chosenIds.filter((id) => known.has(id));
    this.keepChosen();
    for (const run of this.runs.values()) {
      run.overview = known.get(run.id);
      run.name = run.overview.name;
    }
  }

  /** Choose these runs, by hand. */
  choose(ids) {
    this.isByHand = true;
    this.chosenIds = ids;
    this.keepChosen();
  }

  /** Take what the server says of a run; returns whether anything is new. */
  take(run, answer) {
    if (answer.is_gone) {
      this.chosenIds = this.chosenIds.filter((id) => id !== run.id);
      this.keepChosen();
      return true;
    }
    const hadRows = answer.is_whole && Object.keys(run.series).length > 0;
    const isNew = hadRows || Boolean(answer.about) || Object.keys(answer.series).length > 0;
    if (answer.is_whole) run.series = nameless();
    append(run.series, answer.series);
    Object.assign(run.titles, answer.titles);
    run.cursor = answer.cursor;
    if (Object.values(run.series).some(([steps]) => steps.length > MOST_POINTS)) run.cursor = "";
    if (answer.about) {
      const { about, config, facts, summary, media } = answer;
      Object.assign(run, { about, config, facts, summary, media });
    }
    return isNew;
  }

  /** Colours of the theme that is shown now. */
  recolour() {
    for (const run of this.runs.values()) Object.assign(run, lineOf(run.slot));
  }

  keepChosen() {
    const chosen = new Set(this.chosenIds);
    for (const id of this.runs.keys()) if (!chosen.has(id)) this.runs.delete(id);
    const overviews = new Map(this.overviews.map((overview) => [overview.id, overview]));
    for (const id of this.chosenIds) {
      const overview = overviews.get(id);
      if (this.runs.has(id) || !overview) continue;
      const taken = new Set([...this.runs.values()].map((run) => run.slot));
      let slot = 0;
      while (taken.has(slot)) slot += 1;
      this.runs.set(id, {
        id, name: overview.name, overview, slot, ...lineOf(slot), cursor: "", about: "",
        series: nameless(), titles: nameless(), config: {}, facts: {}, summary: {}, media: [],
      });
    }
  }
}
