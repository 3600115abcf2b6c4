// A table of columns and rows, sorted by a click on a column's head.

import { el } from "./dom.js";
import { cell, whole } from "./format.js";

const MOST_ROWS = 300;

/** Return the element of a table; numbers stand to the right. */
export function tableOf(columns, rows) {
  const isNumber = columns.map((_, place) => rows.some((row) => typeof row[place] === "number"));
  const body = el("tbody");
  const note = el("p", { class: "note" });
  let order = null;
  let descends = false;
  const heads = columns.map((name, place) => el("th", { scope: "col", class: isNumber[place] ? "number" : "" }, [
    el("button", { type: "button", title: "sort", onclick: () => sortBy(place) }, [String(name)]),
  ]));

  function sortBy(place) {
    descends = order === place ? !descends : isNumber[place];
    order = place;
    heads.forEach((head) => head.setAttribute("aria-sort", "none"));
    heads[place].setAttribute("aria-sort", descends ? "descending" : "ascending");
    fill();
  }

  function fill() {
    const sorted = order === null ? rows : [...rows].sort((a, b) => compare(a[order], b[order]) * (descends ? -1 : 1));
    body.replaceChildren(...sorted.slice(0, MOST_ROWS).map((row) => el("tr", {}, columns.map((_, place) => (
      el("td", { class: isNumber[place] ? "number" : "" }, [textOf(row[place])])
    )))));
    note.textContent = rows.length > MOST_ROWS ? `${MOST_ROWS} of ${rows.length} rows` : "";
  }

  fill();
  const table = el("table", {}, [el("thead", {}, [el("tr", {}, heads)]), body]);
  return el("div", { class: "wide" }, [table, note]);
}

function textOf(value) {
  return Number.isInteger(value) ? whole(value) : cell(value);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a ?? "").localeCompare(String(b ?? ""), undefined, { numeric: true });
}
