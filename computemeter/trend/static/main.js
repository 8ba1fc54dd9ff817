// Puts the page together, once its data is unpacked.
"use strict";

const CURVE_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#222222", "#8C8C8C"];
const DASHES = ["solid", "dash", "dot"];
const CURVES_AT_FIRST = 4;

function drawCurves(data) {
  document.getElementById("curves-note").textContent = data.curvesNote;
  const place = document.getElementById("curves"), list = document.getElementById("curve-choice");
  place.hidden = !data.curves.length;
  if (!data.curves.length) return;
  const chosen = new Set(data.curves.slice(0, CURVES_AT_FIRST).map((_, position) => position));
  const style = (position) => ({
    color: CURVE_COLOURS[position % CURVE_COLOURS.length],
    dash: DASHES[Math.floor(position / CURVE_COLOURS.length) % DASHES.length],
    width: 2,
  });
  const small = place.clientWidth < 600;
  const axis = { gridcolor: GRID, linecolor: INK, ticks: "outside", exponentformat: "power", zeroline: false, nticks: small ? 5 : 9 };

  function draw() {
    const traces = data.curves.map((curve, position) => ({
      type: "scatter", mode: "lines", x: curve.x, y: curve.y, line: style(position),
      visible: chosen.has(position), hovertemplate: "%{x:.3g} pfs-days, loss %{y:.4g}<extra></extra>",
    }));
    Plotly.react(place, traces, {
      xaxis: { ...axis, type: "log", title: { text: "compute used, petaflop/s-days" } },
      yaxis: { ...axis, type: data.curvesLog ? "log" : "linear", title: { text: "training loss" } },
      showlegend: false, hovermode: "closest", dragmode: small ? false : "zoom",
      font: { family: "system-ui, 'Helvetica Neue', Arial, sans-serif", color: INK },
      margin: small ? { l: 54, r: 12, t: 8, b: 44 } : { l: 84, r: 24, t: 12, b: 50 },
      plot_bgcolor: "white", paper_bgcolor: "white",
    }, { responsive: true, displaylogo: false, showSendToCloud: false, displayModeBar: small ? false : "hover" });
  }

  data.curves.forEach((curve, position) => {
    const row = element("label"), box = element("input", null, { type: "checkbox" });
    box.checked = chosen.has(position);
    box.addEventListener("change", () => {
      if (!chosen.delete(position)) chosen.add(position);
      draw();
    });
    const line = element("span", null, { class: "line" });
    line.style.borderTop = `3px ${{ solid: "solid", dash: "dashed", dot: "dotted" }[style(position).dash]} ${style(position).color}`;
    row.append(box, line, element("span", curve.name));
    list.append(row);
  });
  draw();
}

function drawWords(data) {
  const texts = (id, lines) =>
    document.getElementById(id).replaceChildren(...lines.map((line) => element("li", line)));
  document.getElementById("headline").textContent = data.headline;
  texts("details", data.details);
  texts("notes", data.notes);
  texts("left-out", data.leftOut);
  texts("sources", data.sources);
  document.getElementById("left-out-section").hidden = !data.leftOut.length;
}

// A printed page is as wide as the paper, not as the window.
function fitPaper() {
  const charts = () => [...document.querySelectorAll(".chart.js-plotly-plot")];
  addEventListener("beforeprint", () => charts().forEach((each) => Plotly.relayout(each, { width: 690, height: 430 })));
  addEventListener("afterprint", () =>
    charts().forEach((each) => Plotly.relayout(each, { width: null, height: null, autosize: true })),
  );
}

async function main() {
  const data = await unpack(document.getElementById("data").textContent);
  data.runs.lineageOf = new Map(data.runs.lineage);
  data.runs.flaggedRuns = new Set(data.runs.flagged);
  drawWords(data);
  Chart(data);
  drawRollUps(data);
  drawMarked(data);
  drawCurves(data);
  fitPaper();
  document.body.dataset.ready = "yes";
}

main().catch((error) => {
  document.getElementById("headline").textContent = `This page cannot be drawn here: ${error.message}`;
  throw error;
});
