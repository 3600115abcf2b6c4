"""The card's style sheet. Colours are near Okabe and Ito's, which colour-blind eyes tell apart, for light and dark."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --panel: #ffffff; --ink: #1d2125; --soft: #5b6570; --rule: #dfe3e6; --grid: #e6e9ec;
  --c0: #0072b2; --c1: #c24e00; --c2: #00805e; --c3: #a2407e; --heat: #0072b2; --mark: #c24e00;
  --warn: #fff3e0; --warn-edge: #c24e00; --good: #e8f5ef; --good-edge: #00805e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --panel: #1c2024; --ink: #e6e9ec; --soft: #a0abb5; --rule: #33393f; --grid: #2c3238;
    --c0: #56b4e9; --c1: #f0a030; --c2: #2fc79a; --c3: #e39bc6; --heat: #56b4e9; --mark: #f0a030;
    --warn: #33261a; --warn-edge: #f0a030; --good: #17291f; --good-edge: #2fc79a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main, header { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0 0 .4rem; overflow-wrap: anywhere; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 0 0 .75rem; letter-spacing: -.005em; }
h3 { font-size: .95rem; margin: 1.1rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { font-size: 1.1rem; color: var(--soft); }
.soft, figcaption, th { color: var(--soft); }
nav { margin: 1.1rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .92rem; }
a { color: var(--c0); text-decoration-thickness: 1px; text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
section {
  background: var(--panel); border: 1px solid var(--rule); border-radius: .6rem; padding: 1.25rem;
  margin: 1.1rem 0;
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin: 1.3rem 0 0;
  padding: 0;
}
.tiles > div { background: var(--panel); border: 1px solid var(--rule); border-radius: .6rem; padding: .7rem .9rem; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd {
  margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
.note { border-left: 4px solid var(--rule); padding: .5rem .9rem; margin: .7rem 0; border-radius: 0 .4rem .4rem 0; }
.note.warn { background: var(--warn); border-color: var(--warn-edge); }
.note.good { background: var(--good); border-color: var(--good-edge); }
.note ul { margin: 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; min-width: 100%; }
th { text-align: left; font-weight: 600; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
tr:last-child > td, tr:last-child > th { border-bottom: 0; }
thead th { border-bottom: 1px solid var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.k {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .85em;
  overflow-wrap: anywhere;
}
.id { white-space: nowrap; }
td.share { width: 26%; min-width: 4rem; vertical-align: middle; padding-right: 0; }
td.share > i { display: block; height: .7rem; background: var(--c0); border-radius: 0 2px 2px 0; }
.columns {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2rem;
  align-items: start;
}
.chart { width: 100%; max-width: 34rem; height: auto; display: block; margin: .4rem 0; }
.chart .tick { fill: var(--soft); font-size: 13px; }
.chart .label { fill: var(--ink); font-size: 13.5px; }
.grid { stroke: var(--grid); fill: none; }
.axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 2.25; stroke-linejoin: round; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.bar { fill: var(--heat); } .side { fill: var(--heat); fill-opacity: .75; }
.mark { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 6 3; fill: none; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .2rem 0; padding: 0;
  font-size: .9rem;
}
.legend svg { vertical-align: middle; margin-right: .4rem; }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: .8rem .6rem; margin: .5rem 0;
}
figure { margin: 0; min-width: 0; }
.frame {
  display: flex; align-items: center; justify-content: center; aspect-ratio: 1; min-width: 0; overflow: hidden;
  background: color-mix(in srgb, var(--ink) 6%, transparent); border-radius: .3rem;
}
.frame img { width: 100%; height: 100%; object-fit: contain; display: block; }
.frame img.pixels { image-rendering: pixelated; }
.frame span { font-size: .75rem; color: var(--soft); padding: .3rem; text-align: center; }
figcaption { font-size: .78rem; line-height: 1.3; margin-top: .25rem; overflow-wrap: anywhere;
  display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; }
.classes {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .9rem 1.6rem;
}
.class h4 { margin: 0 0 .3rem; font-size: .88rem; font-weight: 600; overflow-wrap: anywhere; }
.class > div { display: grid; grid-template-columns: repeat(6, 1fr); gap: .3rem; }
.group { display: flex; gap: .9rem; align-items: flex-start; border-top: 1px solid var(--rule); padding: .7rem 0; }
.group .frame { flex: none; width: 4.5rem; }
.group ul { margin: 0; padding: 0; list-style: none; font-size: .9rem; min-width: 0; overflow-wrap: anywhere; }
.swatch {
  display: inline-block; width: 1.1em; height: 1.1em; border-radius: .25em; border: 1px solid var(--rule);
  vertical-align: -.2em;
}
pre {
  background: color-mix(in srgb, var(--ink) 6%, transparent);
  padding: .8rem 1rem; border-radius: .4rem; margin: .5rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .87rem; line-height: 1.5; -webkit-user-select: all;
  user-select: all;
}
summary { cursor: pointer; margin: .6rem 0; font-weight: 600; }
footer { max-width: 68rem; margin: 0 auto; padding: .4rem 1.25rem 2.5rem; font-size: .85rem; color: var(--soft); }
@media (max-width: 34rem) {
  body { font-size: 15px; } header { padding-top: 1.4rem; } h1 { font-size: 1.6rem; }
  section { padding: 1rem .9rem; } main, header, footer { padding-left: .8rem; padding-right: .8rem; }
  td, th { padding-right: .6rem; }
}
@media print { section { break-inside: avoid; } nav { display: none; } }
"""
