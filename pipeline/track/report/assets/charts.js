// Draws the page's charts from the JSON in #curves (pipeline/track/report/chart_data.py), with uPlot.
//
// One state for all charts: smoothing, logarithmic axes, which horizontal axis, which part of it, which runs. A chart
// is built when it comes into view, and again when the state has changed.
"use strict";
(() => {
  const source = document.getElementById("curves");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const state = { smooth: 0, logX: false, logY: false, axis: 0, range: null, view: "mean", hidden: new Set() };
  const axes = [{ name: "step", factors: data.entries.map(() => 1) }, ...data.axes];
  const NUM_COLOURS = 8;
  const DASHES = [[], [6, 4], [2, 3]];
  // Curves of more points are lines without marks.
  const MOST_MARKS = 30;

  // --- numbers for people -------------------------------------------------------------------------------------------
  const SIZES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const short = (value, digits) => {
    const size = SIZES.find(([least]) => Math.abs(value) >= least);
    if (size) return trimmed(value / size[0], digits) + " " + size[1];
    if (value === 0 || Math.abs(value) >= 1e-3) return trimmed(value, digits);
    return value.toExponential(Math.max(0, digits - 2)).replace(/\.?0+e/, "e");
  };
  const trimmed = (value, digits) => String(Number(value.toPrecision(digits)));
  const withUnit = (value, unit, digits = 4) => {
    if (value === null || value === undefined) return "–";
    if (unit === "frac") return trimmed(100 * value, digits) + " %";
    if (unit === "bytes") return short(value, digits) + (Math.abs(value) < 1e3 ? " B" : "B");
    if (unit === "s") return short(value, digits) + " s";
    return short(value, digits);
  };
  const whole = (value) => Number(value.toPrecision(6)).toLocaleString("en");

  // --- colours, read from the style sheet so that they follow light and dark ----------------------------------------
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (name) => css(name).match(/[0-9a-f]{2}/gi).map((byte) => parseInt(byte, 16));
  const mixed = (share) => {
    const [from, to] = (share < 0.5 ? ["--ramp0", "--ramp1"] : ["--ramp1", "--ramp2"]).map(rgb);
    const part = share < 0.5 ? 2 * share : 2 * share - 1;
    return from.map((value, i) => Math.round(value + part * (to[i] - value)));
  };
  const paint = (colour, opacity = 1) => `rgba(${colour.join(",")},${opacity})`;
  const styleOf = (curve, place) => {
    const entry = data.entries[curve.entry];
    if (curve.ramp !== undefined) return { colour: mixed(curve.ramp), dash: DASHES[0] };
    if (entry.colour === null) {
      // Of one run alone evaluation has the same colour in each chart, also where training has no such metric.
      const number = curve.hasSplits && curve.view === undefined ? curve.split : place;
      return { colour: rgb("--c" + (number % NUM_COLOURS)), dash: DASHES[Math.floor(number / NUM_COLOURS) % 3] };
    }
    // Where colours stand for runs, training is dashed and more runs than colours are dotted.
    const dash = curve.split === 0 && curve.hasSplits ? 1 : entry.colour >= NUM_COLOURS ? 2 : 0;
    return { colour: rgb("--c" + (entry.colour % NUM_COLOURS)), dash: DASHES[dash] };
  };

  // --- curves -------------------------------------------------------------------------------------------------------
  // Gaussian means over the neighbours, as wide as the smoothing says: the same however many points there are.
  const smoothed = (xs, values) => {
    const width = 0.12 * state.smooth ** 2 * (xs[xs.length - 1] - xs[0]);
    if (!(width > 0)) return values;
    let from = 0;
    return xs.map((x, place) => {
      if (values[place] === null) return null;
      while (xs[from] < x - 3 * width) from++;
      let sum = 0, weights = 0;
      for (let i = from; i < xs.length && xs[i] <= x + 3 * width; i++) {
        if (values[i] === null) continue;
        const weight = Math.exp(-0.5 * ((xs[i] - x) / width) ** 2);
        sum += weight * values[i];
        weights += weight;
      }
      return sum / weights;
    });
  };
  const onAxis = (curve, grid) => data.grids[grid].map((step) => step * axes[state.axis].factors[curve.entry]);
  const shown = (curve) =>
    !state.hidden.has(curve.entry) && (curve.view === undefined || curve.view === state.view);
  const plottable = (table) => {
    let [xs, ...columns] = table;
    if (state.logX) {
      const kept = xs.map((x) => x > 0);
      xs = xs.filter((_, i) => kept[i]);
      columns = columns.map((values) => values.filter((_, i) => kept[i]));
    }
    if (state.logY) columns = columns.map((values) => values.map((value) => (value > 0 ? value : null)));
    return [xs, ...columns];
  };

  // --- one chart ----------------------------------------------------------------------------------------------------
  const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => ({
    figure,
    spec: data.charts[Number(figure.dataset.chart)],
    plot: null,
    off: new Set(),
    visible: false,
    stale: true,
  }));

  const build = (chart) => {
    const { figure, spec } = chart;
    chart.stale = false;
    if (chart.plot) chart.plot.destroy();
    chart.plot = null;
    const box = figure.querySelector(".plot");
    const curves = spec.curves
      .map((curve, place) => ({ ...curve, place, hasSplits: spec.has_splits }))
      .filter(shown);
    const tables = [], series = [{}], bands = [], lines = [];
    for (const curve of curves) {
      const { colour, dash } = styleOf(curve, curve.place);
      const visible = !chart.off.has(curve.place);
      const xs = onAxis(curve, curve.grid);
      const isSmoothed = state.smooth > 0 && xs.length > 2;
      const line = { curve, colour, dash, main: 0, all: [] };
      const add = (options) => {
        series.push({ show: visible, spanGaps: false, ...options });
        line.all.push(series.length - 1);
        return series.length - 1;
      };
      const num = curve.values.filter((value) => value !== null).length;
      const marks = { show: num <= (dash.length ? 1 : MOST_MARKS), size: 5 };
      const stroke = paint(colour);
      const plain = { stroke, dash, width: 1.75, points: { ...marks, fill: stroke, stroke } };
      const columns = [xs, curve.values];
      if (isSmoothed) add({ stroke: paint(colour, 0.28), width: 1, points: { show: false } });
      else line.main = add(plain);
      if (curve.low) {
        columns.push(curve.low, curve.high);
        const edge = { stroke: paint(colour, 0.3), width: 1, points: { show: false } };
        const [low, high] = [add(edge), add(edge)];
        bands.push({ series: [high, low], fill: paint(colour, 0.18) });
      }
      tables.push(plottable(columns));
      if (isSmoothed) {
        const from = curve.means ? [onAxis(curve, curve.means.grid), curve.means.values] : [xs, curve.values];
        tables.push(plottable([from[0], smoothed(...from)]));
        line.main = add({ ...plain, width: 2, points: { show: false } });
      }
      lines.push(line);
    }
    const mains = new Set(lines.map(({ main }) => main));
    const joined = tables.length ? uPlot.join(tables) : [[]];
    const isEmpty = joined[0].length === 0 || joined.slice(1).every((column) => column.every((value) => value == null));
    box.textContent = isEmpty ? "nothing to show here with these switches" : "";
    legend(chart, lines, null);
    if (isEmpty) return;
    const soft = css("--soft"), grid = css("--grid");
    const rule = { stroke: grid, width: 1 };
    const axis = { stroke: soft, grid: rule, ticks: { ...rule, size: 5 }, font: "12px system-ui" };
    const told = (tell) => (_, splits) => splits.map((value) => (value === null ? "" : tell(value)));
    const size = () => ({ width: box.clientWidth, height: box.clientHeight });
    chart.plot = new uPlot(
      {
        ...size(),
        padding: [10, 12, 0, 0],
        legend: { show: false },
        series,
        bands,
        scales: {
          x: { time: false, distr: state.logX ? 3 : 1, range: (_, min, max) => part(min, max) },
          y: { distr: state.logY ? 3 : 1, range: (_, min, max) => heights(min, max, spec.unit) },
        },
        axes: [
          { ...axis, size: 32, values: told((value) => short(value, 4)) },
          { ...axis, size: 62, values: told((value) => withUnit(value, spec.unit)) },
        ],
        cursor: {
          // Of the pointer alone: what is dragged is passed on by `zoom`.
          sync: { key: "runs", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
          hover: { skip: [null, undefined] },
          points: { size: (_, i) => (mains.has(i) ? 7 : 0) },
          focus: {
            prox: lines.length > 3 ? 20 : -1,
            dist: (_, i, __, at, pointer) => (mains.has(i) ? at - pointer : Infinity),
          },
          drag: { x: true, y: false, setScale: false },
          bind: { dblclick: () => () => queueMicrotask(() => zoom(null)) },
        },
        focus: { alpha: 0.3 },
        hooks: {
          setCursor: [(plot) => legend(chart, lines, plot)],
          setSelect: [
            (plot) => {
              if (plot.select.width < 4) return;
              const { left, width } = plot.select;
              plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
              queueMicrotask(() => zoom(range));  // which takes this plot away
            },
          ],
        },
      },
      joined,
      box,
    );
    touch(chart.plot);
  };

  // The part of the horizontal axis that is shown, of data from `min` to `max`.
  const part = (min, max) => {
    const [from, to] = state.range ?? (min === max ? [min * 0.9 - 0.5, max * 1.1 + 0.5] : [min, max]);
    return [state.logX && from <= 0 ? min : from, to];
  };

  // Some room around the values; uPlot's own range of a constant 0 would reach to 100.
  const heights = (min, max, unit) => {
    if (min === null) return [null, null];
    if (state.logY) return uPlot.rangeLog(min, max, 10, false);
    if (min < max) return uPlot.rangeNum(min, max, 0.1, true);
    const room = 0.1 * Math.abs(min) || (unit === "frac" ? 0.01 : 1);
    return [min - room, max + room];
  };

  // The chart's own key: a button a curve, its value under the pointer or else its last one.
  const legend = (chart, lines, plot) => {
    const list = chart.figure.querySelector(".legend");
    if (!plot) {
      list.replaceChildren(...lines.map((line) => {
        const { curve, colour, dash } = line;
        const swatch = element("span", { className: dash.length ? "swatch dashed" : "swatch" });
        swatch.style.color = paint(colour);
        const button = element("button", { type: "button" }, swatch, curve.name);
        button.setAttribute("aria-pressed", String(!chart.off.has(curve.place)));
        button.onclick = () => {
          if (!chart.off.delete(curve.place)) chart.off.add(curve.place);
          build(chart);
        };
        line.output = element("output", {});
        line.item = element("li", {}, button, line.output);
        return line.item;
      }));
    }
    const hovered = plot && plot.cursor.idx !== null && plot.cursor.left >= 0;
    chart.figure.querySelector(".at").textContent =
      hovered ? axes[state.axis].name + " " + whole(plot.data[0][plot.cursor.idx]) : "";
    for (const { curve, main, all, output, item } of lines) {
      const index = hovered ? plot.cursor.idxs[main] : null;
      const value = index === null || index === undefined ? last(curve.values) : plot.data[main][index];
      output.textContent = withUnit(value, chart.spec.unit);
      item.classList.toggle("near", Boolean(hovered && lines.length > 3 && all.some((i) => plot.series[i]._focus)));
    }
  };
  const last = (values) => values[values.length - 1];

  // Fingers: the value under them, while the page still scrolls up and down.
  const touch = (plot) => {
    const follow = (event) => {
      const frame = plot.over.getBoundingClientRect(), finger = event.touches[0];
      plot.setCursor({ left: finger.clientX - frame.left, top: finger.clientY - frame.top });
    };
    plot.over.addEventListener("touchstart", follow, { passive: true });
    plot.over.addEventListener("touchmove", follow, { passive: true });
  };

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // --- all charts ---------------------------------------------------------------------------------------------------
  const rebuild = () => {
    for (const chart of charts) {
      chart.stale = true;
      if (chart.visible) build(chart);
    }
  };
  const zoom = (range) => {
    state.range = range;
    for (const [place, input] of [byId("from"), byId("to")].entries()) {
      if (input) input.value = range ? Number(range[place].toPrecision(6)) : "";
    }
    rebuild();
  };
  const byId = (name) => document.getElementById(name);
  const on = (name, event, act) => byId(name)?.addEventListener(event, () => act(byId(name)));

  on("smooth", "input", (input) => { state.smooth = Number(input.value) / 100; rebuild(); });
  on("log-y", "change", (input) => { state.logY = input.checked; rebuild(); });
  on("log-x", "change", (input) => { state.logX = input.checked; rebuild(); });
  on("axis", "change", (input) => { state.axis = Number(input.value); zoom(null); });
  on("view", "change", (input) => { state.view = input.value; rebuild(); });
  on("whole", "click", () => zoom(null));
  for (const name of ["from", "to"]) {
    on(name, "change", () => {
      const [from, to] = [byId("from").value, byId("to").value].map((text) => (text === "" ? null : Number(text)));
      const ends = data.charts.flatMap((chart) => chart.curves).flatMap((curve) => {
        const xs = onAxis(curve, curve.grid);
        return [xs[0], last(xs)];
      });
      const range = [from ?? Math.min(...ends), to ?? Math.max(...ends)];
      if (range[0] < range[1]) zoom(range);
    });
  }
  for (const chip of document.querySelectorAll("[data-entry]")) {
    chip.onclick = () => {
      const entry = Number(chip.dataset.entry);
      if (!state.hidden.delete(entry)) state.hidden.add(entry);
      chip.setAttribute("aria-pressed", String(!state.hidden.has(entry)));
      rebuild();
    };
  }

  const seen = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      const chart = charts.find(({ figure }) => figure === target);
      chart.visible = isIntersecting;
      if (isIntersecting && chart.stale) build(chart);
    }
  }, { rootMargin: "300px" });
  const resized = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      const { plot } = charts.find(({ figure }) => figure.contains(target));
      if (plot && target.clientWidth) plot.setSize({ width: target.clientWidth, height: target.clientHeight });
    }
  });
  for (const chart of charts) {
    seen.observe(chart.figure);
    resized.observe(chart.figure.querySelector(".plot"));
    const wider = chart.figure.querySelector("figcaption button");
    wider.onclick = () => wider.setAttribute("aria-pressed", String(chart.figure.classList.toggle("wide")));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
})();
