// Pictures and tables of the chosen runs, side by side by what they show, at any step of theirs.

import { getTable, mediaAddress } from "./api.js";
import { arrange, el, setText, swatch } from "./dom.js";
import { whole } from "./format.js";
import { tableOf } from "./table.js";

const KINDS = {
  picture: { id: "pictures", title: "Pictures", none: "no pictures yet (track.pictures)", make: pictureCard },
  table: { id: "tables", title: "Tables", none: "no tables yet", make: tableCard },
};

/** The view of one kind of media, "picture" or "table". */
export function createMedia(kind) {
  const { id, title, none, make } = KINDS[kind];
  const sections = new Map();
  const place = el("div");
  const empty = el("p", { class: "note" });
  const element = el("div", {}, [place, empty]);

  function update(state) {
    const ofKind = (run) => run.media.filter((medium) => medium.kind === kind);
    const names = new Set(state.chosen.flatMap((run) => ofKind(run).map((medium) => medium.name)));
    for (const name of sections.keys()) if (!names.has(name)) sections.delete(name);
    arrange(place, [...names].map((name) => {
      if (!sections.has(name)) sections.set(name, new MediaSection(name, make));
      sections.get(name).show(state.chosen.map((run) => [run, ofKind(run).filter((medium) => medium.name === name)]));
      return sections.get(name).element;
    }));
    empty.textContent = names.size || !state.chosen.length ? "" : none;
  }

  return { id, title, element, update };
}

/** Everything of one name: a slider over its steps, and a card a run with the newest that is not after that step. */
class MediaSection {
  constructor(name, make) {
    this.make = make;
    this.cards = new Map();
    this.steps = [];
    this.isNewest = true;
    this.slider = el("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": `Step of ${name}` });
    this.where = el("span");
    this.place = el("div", { class: "cards" });
    this.element = el("section", { "data-name": name }, [
      el("h2", {}, [el("code", {}, [name])]), el("div", { class: "bar" }, [this.slider, this.where]), this.place,
    ]);
    this.slider.addEventListener("input", () => {
      this.isNewest = Number(this.slider.value) === this.steps.length - 1;
      this.fill();
    });
  }

  show(listed) {
    const before = this.steps[Number(this.slider.value)];
    this.listed = listed;
    this.steps = [...new Set(listed.flatMap(([, media]) => media.map((one) => one.step)))].sort((a, b) => a - b);
    this.slider.max = this.steps.length - 1;
    const kept = this.steps.indexOf(before);
    this.slider.value = this.isNewest || kept < 0 ? this.steps.length - 1 : kept;
    this.slider.hidden = this.steps.length < 2;
    this.fill();
  }

  fill() {
    const step = this.steps[Number(this.slider.value)];
    setText(this.where, `step ${whole(step)}`);
    const cards = this.listed.flatMap(([run, media]) => {
      const medium = media.filter((one) => one.step <= step).at(-1);
      if (!medium) return [];
      const key = [run.id, medium.file, medium.made, run.colour].join("\n");
      if (!this.cards.has(key)) this.cards.set(key, this.make(run, medium));
      return [[key, this.cards.get(key)]];
    });
    this.cards = new Map(cards);
    arrange(this.place, cards.map(([, card]) => card));
  }
}

function heading(run, medium) {
  return el("figcaption", {}, [
    swatch(run.colour), el("strong", {}, [run.name]), ` step ${whole(medium.step)}`, el("div", {}, [medium.caption]),
  ]);
}

function pictureCard(run, medium) {
  const address = mediaAddress(run.id, medium);
  const picture = el("img", { src: address, alt: `${medium.name}: ${medium.caption}`, loading: "lazy" });
  return el("figure", { class: "card" }, [
    heading(run, medium), el("a", { href: address, target: "_blank", title: "open alone" }, [picture]),
  ]);
}

function tableCard(run, medium) {
  const place = el("div", {}, ["reading"]);
  getTable(run.id, medium).then(
    ({ columns, rows }) => place.replaceChildren(tableOf(columns, rows)),
    () => place.replaceChildren("this table cannot be read"),
  );
  return el("figure", { class: "card" }, [heading(run, medium), place]);
}
