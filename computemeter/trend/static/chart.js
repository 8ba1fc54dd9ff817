// The chart of run compute against time, its legend, filters, hover and click-through.
"use strict";

// Okabe and Ito's colours, each with a shape of its own; vermillion is kept for what is marked.
const GROUP_STYLES = [
  { colour: "#0072B2", symbol: "circle" },
  { colour: "#E69F00", symbol: "square" },
  { colour: "#009E73", symbol: "diamond" },
  { colour: "#CC79A7", symbol: "triangle-up" },
  { colour: "#56B4E9", symbol: "triangle-down" },
];
const OTHERS = { colour: "#8C8C8C", symbol: "hexagon" };
const VERDICT_STYLES = {
  agree: GROUP_STYLES[0],
  warn: GROUP_STYLES[1],
  alarm: { colour: "#D55E00", symbol: "triangle-up" },
  unknown: OTHERS,
};
const MARK = "#D55E00", INK = "#222222", GREY = "#595959", GRID = "#E3E3E3";
const COLUMNS = ["project", "user", "device", "verdict"];
const SHAPES = {
  circle: "M2 7a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
  square: "M2.5 2.5h9v9h-9z",
  diamond: "M7 1l6 6l-6 6l-6 -6z",
  "triangle-up": "M7 1.5l6 10.5h-12z",
  "triangle-down": "M7 12.5l6 -10.5h-12z",
  hexagon: "M7 1l5.2 3v6l-5.2 3l-5.2 -3v-6z",
  star: "M7 0.8l1.9 4.2l4.5 0.5l-3.4 3l1 4.5l-4 -2.3l-4 2.3l1 -4.5l-3.4 -3l4.5 -0.5z",
  x: "M3 3l8 8m0 -8l-8 8",
  plus: "M7 2v10m-5 -5h10",
  line: "M0 7h14",
  bar: "M7 1v12m-3 -12h6",
};
// More dots than this are drawn by the graphics card; more bars than this would be a wall.
const MOST_SVG = 3000, MOST_BARS = 300, THINNED = 5000;

function Chart(data) {
  const runs = data.runs, all = Array.from({ length: runs.n }, (_, run) => run);
  const place = document.getElementById("chart"), tip = document.getElementById("tip");
  const dates = daysOf(runs.started);
  const inFit = new Set(data.fitted);
  const canvasWorks = Boolean(document.createElement("canvas").getContext("webgl"));
  const state = {
    scale: "log",
    colour: "project",
    filters: { text: "" },
    hidden: new Set(),
    off: new Set(["appendix", "thresholds"].filter((layer) => !data.show[layer])),
  };
  const groupings = {};
  let about = [];

  function grouping(column) {
    if (groupings[column]) return groupings[column];
    const coded = runs.texts[column], size = new Float64Array(coded.words.length);
    all.forEach((run) => {
      if (runs.kind[run] !== KIND.overclaiming) size[coded.at[run]] += runs.flops[run];
    });
    const seen = [...new Set(coded.at)].sort((a, b) => size[b] - size[a]);
    const own = seen.length <= GROUP_STYLES.length + 1 ? seen : seen.slice(0, GROUP_STYLES.length);
    const groups = own.map((word, position) => ({
      name: coded.words[word] || UNKNOWN,
      ...(column === "verdict"
        ? VERDICT_STYLES[coded.words[word]] || OTHERS
        : GROUP_STYLES[position] || OTHERS),
    }));
    const rest = seen.length - own.length;
    if (rest) groups.push({ name: `${whole(rest)} others`, ...OTHERS });
    const at = new Map(own.map((word, position) => [word, position]));
    const of = coded.at.map((word) => at.get(word) ?? groups.length - 1);
    return (groupings[column] = { groups, of });
  }

  function shown() {
    const { text, ...chosen } = state.filters;
    const { of } = grouping(state.colour);
    const wanted = Object.entries(chosen).filter(([, word]) => word !== "");
    const part = text.toLowerCase();
    return all.filter(
      (run) =>
        !state.hidden.has(of[run]) &&
        !(state.off.has("estimated") && runs.kind[run] === KIND.estimated) &&
        !(state.off.has("overclaiming") && runs.kind[run] === KIND.overclaiming) &&
        wanted.every(([column, word]) => runs.texts[column].at[run] === word) &&
        (!part || runs.name[run].toLowerCase().includes(part)),
    );
  }

  function dots(visible) {
    const { groups, of } = grouping(state.colour);
    const many = visible.length > MOST_SVG, type = many && canvasWorks ? "scattergl" : "scatter";
    let drawn = visible;
    if (many && !canvasWorks) {
      const each = Math.ceil(visible.length / THINNED);
      drawn = visible.filter((run, position) => position % each === 0 || inFit.has(run));
    }
    const members = groups.map(() => [[], []]), over = [];
    for (const run of drawn) {
      if (runs.kind[run] === KIND.overclaiming) over.push(run);
      else members[of[run]][runs.kind[run]].push(run);
    }
    // So small that no shape could be seen; circles cost a software renderer half as much.
    const size = many ? 3 : 7, opacity = many ? 0.25 : drawn.length > 300 ? 0.45 : 0.7;
    const traces = groups.flatMap((group, position) =>
      members[position].map((some, kind) => ({
        ...points(some, type),
        opacity: kind ? Math.min(1, opacity + 0.2) : opacity,
        marker: { color: group.colour, symbol: (many ? "circle" : group.symbol) + (kind ? "-open" : ""), size },
      })),
    );
    const mark = { color: MARK, line: { width: 2, color: MARK } };
    traces.push({ ...points(over, "scatter"), marker: { ...mark, symbol: "x-thin", size: 9 } });
    if (!state.off.has("flagged")) {
      const flagged = data.runs.flagged.filter((run) => drawn.length && visibleSet.has(run));
      traces.push({
        ...points(flagged, type),
        marker: { color: MARK, symbol: "circle-open", size: size + 7, line: { width: 2 } },
      });
    }
    if (!state.off.has("fitted")) {
      const fitted = drawn.filter((run) => inFit.has(run));
      const hollow = fitted.map((run) => (runs.kind[run] ? "-open" : ""));
      traces.push({
        ...points(fitted, fitted.length > MOST_SVG ? type : "scatter"),
        marker: {
          color: fitted.map((run) => groups[of[run]].colour),
          symbol: fitted.map((run, position) => groups[of[run]].symbol + hollow[position]),
          size: fitted.length > MOST_SVG ? size : 10,
          line: { width: 1.5, color: INK },
        },
      });
    }
    return { traces, drawn };
  }

  let visibleSet = new Set();

  function points(some, type) {
    return {
      type,
      mode: "markers",
      x: some.map((run) => dates[run]),
      y: some.map((run) => runs.flops[run]),
      hoverinfo: "none",
      about: (position) => ({
        title: runs.name[some[position]],
        facts: factsOf(runs, some[position]),
        url: pageOf(runs, some[position]),
      }),
    };
  }

  // The methods cover all that was spent and the dot is run compute: the same ratio at its height.
  function bars(drawn) {
    const both = drawn.filter((run) => known(runs.ratio[run]) && runs.kind[run] === KIND.metered);
    let some = both.length <= MOST_BARS ? both : both.filter((run) => inFit.has(run));
    if (some.length > MOST_BARS) some = [];
    const ends = some.map((run) => runs.flops[run] * runs.ratio[run]);
    const x = [], y = [];
    some.forEach((run, position) => {
      x.push(dates[run], dates[run], null);
      y.push(runs.flops[run], ends[position], null);
    });
    const quiet = { type: "scatter", hoverinfo: "skip" };
    return {
      ends,
      left: some.length === both.length ? "" : some.length ? "bars for the fitted runs only" : "too many for bars",
      traces: [
        { ...quiet, mode: "lines", x, y, line: { color: GREY, width: 1.2 }, opacity: 0.8 },
        {
          ...quiet,
          mode: "markers",
          x: some.map((run) => dates[run]),
          y: ends,
          marker: { symbol: "line-ew", size: 7, line: { width: 1.6, color: GREY } },
        },
      ],
    };
  }

  function line(x, y, style, more = {}) {
    return { type: "scatter", mode: "lines", x: x.map((s) => day(1000 * s)), y, line: style, hoverinfo: "skip", ...more };
  }

  function fitTraces() {
    if (!data.fit || state.off.has("fit")) return [];
    const { x, y, low, high } = data.fit;
    const edge = { width: 0, color: INK };
    return [
      line(x, low, edge),
      line(x, high, edge, { fill: "tonexty", fillcolor: "rgba(34,34,34,0.13)" }),
      line(x, y, { color: INK, width: 2.5 }),
    ];
  }

  function published() {
    if (state.off.has("appendix")) return [];
    const entries = data.appendix, x = [], y = [];
    for (const entry of entries) {
      if (!known(entry.one) || !known(entry.two)) continue;
      x.push(day(1000 * entry.when), day(1000 * entry.when), null);
      y.push(entry.one, entry.two, null);
    }
    return [
      { type: "scatter", mode: "lines", x, y, line: { color: GREY, width: 1.2 }, hoverinfo: "skip" },
      {
        type: "scatter",
        mode: narrow() ? "markers" : "markers+text",
        x: entries.map((entry) => day(1000 * entry.when)),
        y: entries.map((entry) => entry.one ?? entry.two),
        text: entries.map((entry) => entry.short),
        textposition: entries.map((entry) => entry.side),
        textfont: { size: 11, color: GREY },
        hoverinfo: "none",
        marker: {
          color: GREY,
          size: 8,
          symbol: entries.map((entry) => (known(entry.one) ? "star" : "star-open")),
        },
        about: (position) => ({ title: entries[position].name, facts: entries[position].facts }),
      },
    ];
  }

  function reference() {
    const models = data.reference;
    if (!models || state.off.has("reference")) return [];
    return [{
      type: models.when.length > MOST_SVG && canvasWorks ? "scattergl" : "scatter",
      mode: "markers",
      x: models.when.map((seconds) => day(1000 * seconds)),
      y: models.flops,
      opacity: 0.6,
      hoverinfo: "none",
      marker: { color: "#A6A6A6", symbol: "cross", size: 5 },
      about: (position) => ({
        title: models.name[position],
        facts: [
          ["compute", compute(models.flops[position])],
          ["published", day(1000 * models.when[position]).slice(0, 10)],
          ["organisation", models.organization[position] || UNKNOWN],
          ["confidence", models.confidence[position] || UNKNOWN],
          ["from", models.file],
        ],
      }),
    }];
  }

  const narrow = () => place.clientWidth < 600;

  function ranges(drawn, ends) {
    let low = Infinity, high = 0, first = Infinity, last = -Infinity;
    const take = (when, value) => {
      if (when < first) first = when;
      if (when > last) last = when;
      if (value > 0 && value < low) low = value;
      if (value > high) high = value;
    };
    for (const run of drawn) {
      if (runs.kind[run] !== KIND.overclaiming) take(runs.started[run], runs.flops[run]);
    }
    const middle = drawn.length ? runs.started[drawn[0]] : data.made;
    if (!drawn.length) take(middle, 1e18);
    for (const value of ends) take(first, value);
    if (data.fit && !state.off.has("fit")) data.fit.y.forEach((v, i) => take(data.fit.x[i], v));
    if (!state.off.has("appendix")) {
      data.appendix.forEach((entry) => take(entry.when, entry.one ?? entry.two));
    }
    if (data.reference && !state.off.has("reference")) {
      data.reference.when.forEach((when, i) => take(when, data.reference.flops[i]));
    }
    if (!state.off.has("thresholds")) data.thresholds.forEach((each) => take(first, each.flops));
    if (low > high) [low, high] = [1e17, 1e19];
    const room = Math.max(0.04 * (last - first), 3 * 86400);
    const x = [day(1000 * (first - room)), day(1000 * (last + room))];
    const [bottom, top] = [Math.log10(low), Math.log10(high)];
    const over = Math.max(0.06 * (top - bottom), 0.25);
    return { x, y: state.scale === "log" ? [bottom - over, top + over] : [0, 1.06 * high] };
  }

  function marks(x) {
    const shapes = [], annotations = [];
    if (!state.off.has("thresholds")) {
      for (const each of data.thresholds) {
        shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: each.flops, y1: each.flops, line: { color: MARK, width: 1.2, dash: "dash" } });
        annotations.push({
          text: narrow() ? each.short : each.text, xref: "paper", x: 0.005, xanchor: "left", showarrow: false,
          y: state.scale === "log" ? Math.log10(each.flops) : each.flops, yanchor: "bottom", font: { size: 11, color: "#A34700" },
        });
      }
    }
    if (!state.off.has("appendix")) {
      const end = x[1];
      data.eras.forEach((era, position) => {
        const from = era.start === null ? x[0] : day(1000 * era.start);
        const to = era.end === null ? end : day(1000 * era.end);
        shapes.push({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: from, x1: to, layer: "below", line: { width: 0 }, fillcolor: position % 2 ? "rgba(0,114,178,0.05)" : "rgba(0,114,178,0.11)" });
        const whole = Date.parse(`${end}Z`) - Date.parse(`${x[0]}Z`);
        const wide = Date.parse(`${to}Z`) - Date.parse(`${from}Z`);
        if (narrow() || wide < 0.08 * whole) return;
        annotations.push({ text: era.name, hovertext: era.sentence, x: from, xanchor: "left", yref: "paper", y: 1, yanchor: "top", showarrow: false, align: "left", font: { size: 10.5, color: GREY } });
      });
    }
    return { shapes, annotations };
  }

  function layout(range) {
    const shift = Math.log10(PFS_DAY), small = narrow();
    const right = state.scale === "log" ? range.y.map((v) => v - shift) : range.y.map((v) => v / PFS_DAY);
    const axis = {
      type: state.scale, exponentformat: "power", showexponent: "all", linecolor: INK, ticks: "outside",
      tickcolor: INK, zeroline: false, tickfont: { size: small ? 11 : 13 }, nticks: small ? 7 : 10,
    };
    const name = (text) => ({ text, standoff: small ? 2 : 8, font: { size: small ? 11 : 13 } });
    return {
      xaxis: { type: "date", range: range.x, gridcolor: GRID, linecolor: INK, ticks: "outside", tickfont: { size: small ? 11 : 13 }, nticks: small ? 4 : 12 },
      yaxis: { ...axis, range: range.y, gridcolor: GRID, title: name("run compute, FLOP") },
      yaxis2: { ...axis, range: right, tickmode: "auto", overlaying: "y", side: "right", showgrid: false, fixedrange: true, title: name("petaflop/s-days") },
      ...marks(range.x),
      showlegend: false, hovermode: "closest", dragmode: small ? false : "zoom",
      font: { family: "system-ui, 'Helvetica Neue', Arial, sans-serif", color: INK },
      margin: small ? { l: 54, r: 56, t: 8, b: 34 } : { l: 84, r: 90, t: 12, b: 44 },
      plot_bgcolor: "white", paper_bgcolor: "white",
    };
  }

  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false, doubleClick: "reset",
    displayModeBar: narrow() ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { filename: "compute-trend", scale: 2 },
  };

  function draw() {
    const visible = shown();
    visibleSet = new Set(visible);
    const { traces, drawn } = dots(visible);
    const bar = state.off.has("bars") ? { traces: [], ends: [], left: "" } : bars(drawn);
    const range = ranges(visible, bar.ends);
    const made = [...reference(), ...bar.traces, ...traces, ...fitTraces()];
    if (data.moore && !state.off.has("moore")) {
      made.push(line(data.moore.x, data.moore.y, { color: GREY, width: 1.8, dash: "dot" }));
    }
    made.push(...published());
    // An axis without a trace is not drawn.
    made.push({ type: "scatter", x: [range.x[0]], y: [null], yaxis: "y2", hoverinfo: "skip" });
    about = made.map((trace) => trace.about);
    made.forEach((trace) => delete trace.about);
    tip.hidden = true;
    Plotly.react(place, made, layout(range), config);
    legend();
    const count = [`${whole(visible.length)} of ${whole(runs.n)} runs shown`];
    if (drawn.length < visible.length) count.push(`this browser has no WebGL: ${whole(drawn.length)} of them drawn`);
    if (bar.left) count.push(bar.left);
    const top = state.scale === "log" ? 10 ** range.y[1] : range.y[1];
    const above = drawn.filter((run) => runs.flops[run] > top).length;
    if (above) count.push(`${whole(above)} overclaiming above the axis`);
    document.getElementById("shown").textContent = `${count.join("; ")}.`;
  }

  function swatch(style) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", "0 0 14 14");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", SHAPES[style.symbol]);
    const open = style.open || ["x", "plus", "line", "bar"].includes(style.symbol);
    path.setAttribute("fill", open ? "none" : style.colour);
    path.setAttribute("stroke", style.edge || style.colour);
    path.setAttribute("stroke-width", style.width || 1.6);
    if (style.dash) path.setAttribute("stroke-dasharray", "2 2.5");
    svg.append(path);
    return svg;
  }

  function chip(style, text, pressed, press) {
    const button = element("button", null, { type: "button", "aria-pressed": String(pressed), class: "chip" });
    button.append(swatch(style), element("span", text));
    button.addEventListener("click", press);
    return button;
  }

  function flip(set, key) {
    if (!set.delete(key)) set.add(key);
    draw();
  }

  const layers = [
    ["fitted", data.fitWords, { symbol: "circle", colour: "#BBBBBB", edge: INK }, data.fitted.length],
    ["fit", "fit, 95 % band", { symbol: "line", colour: INK, width: 3 }, data.fit],
    ["moore", "doubling every 18 months", { symbol: "line", colour: GREY, width: 2, dash: true }, data.moore],
    ["bars", "bar to method 2", { symbol: "bar", colour: GREY }, runs.ratio.some(known)],
    ["estimated", "hollow: estimated, method 2 alone", { symbol: "circle", colour: GREY, open: true }, runs.kind.includes(KIND.estimated)],
    ["flagged", "flagged: count or peak suspect", { symbol: "circle", colour: MARK, open: true, width: 2 }, runs.flagged.length],
    ["overclaiming", "overclaiming: not in the fit, in no sum", { symbol: "x", colour: MARK, width: 2.4 }, runs.kind.includes(KIND.overclaiming)],
    ["appendix", "published results and eras, 2018", { symbol: "star", colour: GREY }, true],
    ["reference", data.reference ? `reference: ${data.reference.file}` : "", { symbol: "plus", colour: "#A6A6A6", width: 2.4 }, data.reference],
    ["thresholds", "thresholds", { symbol: "line", colour: MARK, dash: true }, true],
  ];

  function legend() {
    const { groups } = grouping(state.colour);
    const focused = document.activeElement?.closest?.("#legend")
      ? [...document.querySelectorAll("#legend button")].indexOf(document.activeElement)
      : -1;
    const chips = groups.map((group, position) =>
      chip(group, group.name, !state.hidden.has(position), () => flip(state.hidden, position)),
    );
    for (const [key, text, style, there] of layers) {
      if (!there) continue;
      const button = chip(style, text, !state.off.has(key), () => flip(state.off, key));
      button.dataset.layer = key;
      chips.push(button);
    }
    const list = document.getElementById("legend");
    list.replaceChildren(...chips);
    if (focused >= 0) list.children[focused]?.focus();
  }

  function controls() {
    for (const button of document.querySelectorAll("[data-scale]")) {
      button.addEventListener("click", () => {
        state.scale = button.dataset.scale;
        document.querySelectorAll("[data-scale]").forEach((each) => {
          each.setAttribute("aria-pressed", String(each === button));
        });
        draw();
      });
    }
    const colour = document.getElementById("colour");
    colour.addEventListener("change", () => {
      state.colour = colour.value;
      state.hidden.clear();
      draw();
    });
    for (const column of COLUMNS) {
      const select = document.getElementById(`filter-${column}`), coded = runs.texts[column];
      const seen = [...new Set(coded.at)].map((word) => [coded.words[word] || UNKNOWN, word]);
      seen.sort((one, other) => one[0].localeCompare(other[0]));
      select.append(element("option", "all", { value: "" }));
      for (const [name, word] of seen) select.append(element("option", name, { value: word }));
      state.filters[column] = "";
      select.addEventListener("change", () => {
        state.filters[column] = select.value === "" ? "" : Number(select.value);
        draw();
      });
    }
    const search = document.getElementById("filter-name");
    let waiting;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        state.filters.text = search.value;
        draw();
      }, 200);
    });
  }

  function fill(box, what, linked) {
    box.replaceChildren(element("strong", what.title), factList(what.facts));
    if (!what.url) return;
    box.append(
      linked
        ? element("a", "open the run", { href: what.url, target: "_blank", rel: "noopener noreferrer" })
        : element("em", "click to open the run"),
    );
  }

  function pointed(event) {
    const point = event.points[0], ask = about[point.curveNumber];
    return ask ? ask(point.pointIndex ?? point.pointNumber) : null;
  }

  function pointing() {
    const touch = matchMedia("(hover: none)");
    place.on("plotly_hover", (event) => {
      const what = pointed(event);
      if (!what || touch.matches) return;
      fill(tip, what, false);
      tip.hidden = false;
      const { clientX: x, clientY: y } = event.event, { offsetWidth: w, offsetHeight: h } = tip;
      tip.style.left = `${Math.max(4, x + 16 + w > innerWidth ? x - 16 - w : x + 16)}px`;
      tip.style.top = `${Math.max(4, Math.min(y - h / 2, innerHeight - h - 4))}px`;
    });
    place.on("plotly_unhover", () => (tip.hidden = true));
    place.on("plotly_click", (event) => {
      const what = pointed(event), picked = document.getElementById("picked");
      if (!what) return;
      picked.hidden = false;
      fill(picked, what, true);
      // On a phone it lies below all that the legend holds.
      if (touch.matches) picked.scrollIntoView({ block: "nearest" });
      if (what.url && !touch.matches) window.open(what.url, "_blank", "noopener,noreferrer");
    });
    // A zoom moves the left axis; the right one says the same in petaflop/s-days.
    place.on("plotly_relayout", (change) => {
      if (!Object.keys(change).some((key) => key.startsWith("yaxis."))) return;
      const range = place.layout.yaxis.range.map((v) =>
        state.scale === "log" ? v - Math.log10(PFS_DAY) : v / PFS_DAY,
      );
      Plotly.relayout(place, { "yaxis2.range": range });
    });
  }

  controls();
  draw();
  pointing();
}
