// One chart: curves over steps, drawn by uPlot. It draws only while it is on the screen.

import { darkTheme, styled } from "./colours.js";
import { el, setText, swatch } from "./dom.js";
import { short, whole, withUnit } from "./format.js";
import { nearest, positive, smoothed } from "./series.js";

const HEIGHT = 220;
const TOOLTIP_ROWS = 16;
// Curves of so few points show each of them; one alone would not be seen else.
const FEW_POINTS = 12;

const onScreen = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.chart.turn(entry.isIntersecting);
}, { rootMargin: "200px" });
const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.parentElement.chart?.fit();
});

export class Chart {
  /** A figure for the metric `key`, which gives values their unit; its title stands above it. */
  constructor(key, title) {
    this.key = key;
    this.plot = null;
    this.shape = "";
    this.isOn = this.isZoomed = this.isStale = false;
    this.curves = [];
    this.options = {};
    this.note = el("p", { class: "note" });
    this.place = el("div", { class: "plot" });
    this.tooltip = el("div", { class: "tooltip", hidden: true });
    this.names = el("code", {}, [key]);
    const caption = el("figcaption", {}, [el("strong", { title }, [title]), this.names]);
    this.element = el("figure", { class: "chart", "data-key": key }, [caption, this.place, this.note, this.tooltip]);
    this.element.chart = this;
    onScreen.observe(this.element);
    sizes.observe(this.place);
  }

  /**
   * Show curves {label, colour, dash, width, x, values, low, high, isRule}; options: {log, smoothing, axis}.
   * low and high make a band; a rule is a line without points.
   */
  show(curves, options) {
    this.curves = curves;
    this.options = options;
    this.isStale = true;
    if (this.isOn) this.draw();
  }

  /** Tell which metrics are drawn, if not the one that the chart is named after. */
  tellMetrics(metrics) {
    setText(this.names, metrics.join(", "));
  }

  turn(isOn) {
    this.isOn = isOn;
    if (isOn && this.isStale) this.draw();
  }

  fit() {
    const width = this.place.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  remove() {
    onScreen.unobserve(this.element);
    sizes.unobserve(this.place);
    this.plot?.destroy();
    this.element.remove();
  }

  draw() {
    this.isStale = false;
    const lines = this.lines();
    const hasValues = lines.some((line) => line.values.some((value) => value !== null));
    this.note.textContent = hasValues ? "" : this.options.log ? "nothing above 0" : "nothing finite";
    this.place.hidden = !hasValues;
    if (!hasValues) {
      this.plot?.destroy();
      this.plot = null;
      return;
    }
    const data = uPlot.join(lines.map((line) => [line.x, line.values]));
    const looks = lines.map((line) => [line.label, line.colour, line.dash, line.width, line.band, hasFew(line)]);
    const shape = JSON.stringify([looks, this.options.log, darkTheme.matches]);
    this.drawn = lines;
    if (this.plot && shape === this.shape) {
      this.plot.setData(data, !this.isZoomed);
      if (this.isZoomed) this.plot.redraw();
      return;
    }
    this.shape = shape;
    this.isZoomed = false;
    this.plot?.destroy();
    this.plot = new uPlot(this.settings(lines), data, this.place);
  }

  /** What is drawn for the curves: the band's ends, what is smoothed away as a shade, and the line itself. */
  lines() {
    const { log, smoothing } = this.options;
    const lines = [];
    for (const curve of this.curves) {
      const shown = (values) => (log ? positive(values) : values);
      const shade = { ...curve, isShade: true, colour: `${curve.colour}55`, width: 1 };
      if (curve.low) {
        lines.push({ ...shade, values: shown(curve.high), band: true }, { ...shade, values: shown(curve.low) });
      }
      if (smoothing > 0) lines.push({ ...shade, values: shown(curve.values) });
      lines.push({ ...curve, values: shown(smoothing > 0 ? smoothed(curve.values, smoothing) : curve.values) });
    }
    return lines;
  }

  settings(lines) {
    const [ink, faint] = [styled("--faint-ink"), styled("--grid")];
    const axis = { stroke: ink, grid: { stroke: faint, width: 1 }, ticks: { stroke: faint, width: 1 } };
    const font = "12px system-ui, sans-serif";
    return {
      width: Math.max(200, this.place.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "runs", setSeries: false }, drag: { x: true, y: false }, points: { show: false } },
      scales: { x: { time: false }, y: { distr: this.options.log ? 3 : 1 } },
      axes: [
        { ...axis, font, size: 34, values: (plot, splits) => splits.map((split) => shortOrNothing(split)) },
        { ...axis, font, size: 66, values: (plot, splits) => splits.map((split) => this.tick(split)) },
      ],
      series: [{}, ...lines.map((line) => ({
        stroke: line.colour, width: line.width ?? 1.5, dash: line.isShade ? [] : line.dash,
        points: { show: hasFew(line), size: 5, fill: line.colour },
      }))],
      bands: lines.flatMap((line, place) => (
        line.band ? [{ series: [place + 1, place + 2], fill: line.colour.slice(0, 7) + "22" }] : []
      )),
      hooks: {
        setCursor: [(plot) => this.tell(plot)],
        setSelect: [(plot) => { this.isZoomed = plot.select.width > 0; }],
        ready: [(plot) => plot.over.addEventListener("dblclick", () => { this.isZoomed = false; })],
      },
    };
  }

  tick(split) {
    const isShare = split !== null && this.key.endsWith("_frac");
    return isShare ? `${Number((100 * split).toPrecision(6))} %` : shortOrNothing(split);
  }

  /** Beside the mouse: the step, and what each curve is there. */
  tell(plot) {
    const { left, top, idx } = plot.cursor;
    const isOver = plot.over.matches(":hover") && idx !== null && idx !== undefined && left >= 0;
    this.tooltip.hidden = !isOver;
    if (!isOver) return;
    const reach = Math.max(2, Math.ceil(plot.data[0].length / 20));
    const told = this.drawn.flatMap((line, place) => {
      if (line.isShade) return [];
      const at = nearest(plot.data[place + 1], idx, reach);
      return at === null ? [] : [{ line, value: plot.data[place + 1][at] }];
    }).sort((a, b) => b.value - a.value);
    const rows = told.slice(0, TOOLTIP_ROWS).map(({ line, value }) => el("div", {}, [
      swatch(line.colour), el("span", {}, [line.label]), el("b", {}, [withUnit(this.key, value)]),
    ]));
    if (told.length > rows.length) rows.push(el("div", {}, [`and ${told.length - rows.length} more`]));
    const x = plot.data[0][idx];
    const where = Number.isInteger(x) ? whole(x) : short(x, 4);
    this.tooltip.replaceChildren(el("div", { class: "where" }, [`${this.options.axis} ${where}`]), ...rows);
    const width = this.element.clientWidth;
    const isRight = left > plot.over.clientWidth / 2;
    const from = plot.over.offsetLeft + this.place.offsetLeft;
    this.tooltip.style.left = isRight ? "auto" : `${from + left + 14}px`;
    this.tooltip.style.right = isRight ? `${width - from - left + 14}px` : "auto";
    this.tooltip.style.top = `${this.place.offsetTop + top + 8}px`;
  }
}

function hasFew(line) {
  return !line.isShade && !line.isRule && line.x.length <= FEW_POINTS;
}

/** Logarithmic axes leave some of their lines without a number. */
function shortOrNothing(split) {
  return split === null ? "" : short(split, 6);
}
