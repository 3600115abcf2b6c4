// What the chosen runs are: options in which they differ, then all they share, and where and from what they were made.

import { el, swatch } from "./dom.js";
import { cell } from "./format.js";

// Differ by nature.
const UNTOLD = new Set(["run_dir"]);

export function createConfig() {
  const element = el("div");
  let drawn = "";

  function update(state) {
    const key = JSON.stringify(state.chosen.map((run) => [run.id, run.about, run.colour]));
    if (key === drawn) return;
    drawn = key;
    const runs = state.chosen;
    const options = compared(runs, runs.map((run) => run.config));
    const facts = compared(runs, runs.map((run) => factsOf(run)));
    const results = compared(runs, runs.map((run) => summaryOf(run)));
    const parts = [];
    if (runs.length > 1) parts.push(section("Options that differ", runs, options.differ, "none: the same options"));
    const isShared = runs.length > 1;
    parts.push(section(isShared ? "Options in common" : "Options", runs.slice(0, 1), options.same, "none", isShared));
    parts.push(section("Made from", runs, [...facts.differ, ...facts.same], "not told"));
    parts.push(section("Results", runs, [...results.differ, ...results.same], "no run is finished yet"));
    element.replaceChildren(...parts);
  }

  return { id: "config", title: "Config", element, update };
}

/** Rows [name, values] by whether all runs agree. */
function compared(runs, trees) {
  const names = [...new Set(trees.flatMap((tree) => Object.keys(tree)))].filter((name) => !UNTOLD.has(name));
  const rows = names.map((name) => [name, trees.map((tree) => tree[name] ?? null)]);
  const agrees = ([, values]) => values.every((value) => JSON.stringify(value) === JSON.stringify(values[0]));
  return { same: rows.filter(agrees), differ: rows.filter((row) => !agrees(row)) };
}

function section(title, runs, rows, none, isFolded = false) {
  const head = el("tr", {}, [el("th"), ...runs.map((run) => el("th", { scope: "col" }, (
    isFolded ? ["all"] : [swatch(run.colour), run.name]
  )))]);
  const lines = rows.map(([name, values]) => el("tr", {}, [
    el("th", { scope: "row" }, [el("code", {}, [name])]),
    ...values.slice(0, runs.length).map((value) => el("td", {}, [el("div", { class: "long" }, [cell(value)])])),
  ]));
  const table = el("div", { class: "wide" }, [el("table", {}, [el("thead", {}, [head]), el("tbody", {}, lines)])]);
  const content = rows.length ? table : el("p", { class: "note" }, [none]);
  return isFolded
    ? el("details", {}, [el("summary", {}, [`${title} (${rows.length})`]), content])
    : el("section", {}, [el("h2", {}, [title]), content]);
}

function factsOf(run) {
  const { command, git_commit, fingerprint, versions, machine } = run.facts;
  return {
    ...(Array.isArray(command) ? { command: command.join(" ") } : {}),
    ...(git_commit ? { git_commit } : {}),
    ...flat({ fingerprint, versions, machine }),
  };
}

function summaryOf(run) {
  const { versions, machine, data, run_dir, ...results } = run.summary;
  return flat(results);
}

function flat(tree, path = "") {
  return Object.assign({}, ...Object.entries(tree ?? {}).map(([key, value]) => (
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? flat(value, `${path}${key}.`)
      : value === undefined ? {} : { [path + key]: value }
  )));
}
