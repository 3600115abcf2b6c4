// The page: asks the server every second what is new, and shows the chosen runs in the view that is open.

import { getRun, getRuns } from "./api.js";
import { darkTheme, styled } from "./colours.js";
import { el, setText } from "./dom.js";
import { Sidebar } from "./sidebar.js";
import { State } from "./state.js";
import { createConfig } from "./view_config.js";
import { createCurves } from "./view_curves.js";
import { createLayers } from "./view_layers.js";
import { createMedia } from "./view_media.js";
import { createSpeed } from "./view_speed.js";

const EVERY_MS = 1000;
const AFTER_FAILURE_MS = 3000;

const state = new State(location.hash);
const views = [
  createCurves(), createLayers(), createMedia("picture"), createMedia("table"), createConfig(), createSpeed(),
];
const alive = document.getElementById("alive");
const place = document.getElementById("view");
const sidebar = new Sidebar(state, choose);
let version = "";
let keptHash = "";
let timer = 0;
let asking = false;
let isDirty = false;

function choose(ids) {
  state.choose(ids);
  sidebar.update();
  showView();
  askSoon();
}

function showView() {
  const view = views.find((one) => one.id === state.tab) ?? views[0];
  for (const button of document.getElementById("tabs").children) {
    button.setAttribute("aria-current", button.dataset.id === view.id ? "page" : "false");
  }
  if (place.firstChild !== view.element) place.replaceChildren(view.element);
  view.update({ chosen: state.chosen, settings: state.settings, ink: styled("--ink") });
  if (state.hash !== keptHash) history.replaceState(null, "", state.hash);
  keptHash = state.hash;
}

async function ask() {
  if (asking) {
    isDirty = true;
    return;
  }
  asking = true;
  let wait = EVERY_MS;
  try {
    const { version: newest, runs } = await getRuns(version);
    let isNew = Boolean(runs);
    if (runs) {
      version = newest;
      state.setOverviews(runs);
      sidebar.update();
    }
    const chosen = [...state.runs.values()];
    const answers = await Promise.all(chosen.map((run) => getRun(run.id, run.cursor, run.about)));
    chosen.forEach((run, number) => {
      if (state.runs.get(run.id) === run) isNew = state.take(run, answers[number]) || isNew;
    });
    setText(alive, "live");
    alive.className = "";
    if (isNew) showView();
  } catch (error) {
    setText(alive, error instanceof TypeError ? "the server does not answer; trying again" : String(error));
    alive.className = "failed";
    wait = AFTER_FAILURE_MS;
  }
  asking = false;
  if (isDirty) wait = 0;
  isDirty = false;
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(ask, wait);
}

function askSoon() {
  clearTimeout(timer);
  ask();
}

/** Let a control show a setting, and set it. */
function bind(id, property, name) {
  const control = document.getElementById(id);
  control[property] = state.settings[name];
  control.addEventListener("input", () => {
    const value = control.type === "range" ? Number(control.value) : control[property];
    state.settings = { ...state.settings, [name]: value };
    showView();
  });
}

function open(id) {
  state.tab = id;
  showView();
}

document.getElementById("tabs").append(...views.map(({ id, title }) => (
  el("button", { type: "button", "data-id": id, onclick: () => open(id) }, [title])
)));
bind("x", "value", "axis");
bind("smoothing", "value", "smoothing");
bind("log", "checked", "log");
const menu = document.getElementById("menu");
menu.addEventListener("click", () => {
  const isOpen = document.body.classList.toggle("menu-open");
  menu.setAttribute("aria-expanded", isOpen);
});
darkTheme.addEventListener("change", () => {
  state.recolour();
  sidebar.update();
  showView();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) askSoon(); });
showView();
askSoon();
