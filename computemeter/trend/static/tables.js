// The sortable roll-ups, and the list of marked runs.
"use strict";

const ROWS_AT_FIRST = 20;

const ROLL_UP_COLUMNS = [
  { title: "", key: "name", write: (value) => value || UNKNOWN },
  { title: "runs", key: "runs", write: whole },
  { title: "run", unit: "pfs-days", key: "run", write: (v) => (known(v) ? pfsDays(v) : UNKNOWN) },
  { title: "spent", unit: "pfs-days", key: "spent", write: (v) => (known(v) ? pfsDays(v) : UNKNOWN) },
  { title: "lost to crashes", unit: "pfs-days", key: "lost", write: (v) => (known(v) ? pfsDays(v) : UNKNOWN) },
  { title: "estimated", unit: "pfs-days, method 2", key: "estimated", write: (v) => (known(v) ? pfsDays(v) : "–") },
  { title: "device-hours", key: "deviceSeconds", write: hours },
  { title: "MFU", key: "mfu", write: share },
  { title: "not added", unit: "runs", key: "notAdded", write: whole },
];

function sorted(rows, key, down) {
  const way = down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const a = one[key], b = other[key];
    // What is not known comes last, whichever way.
    if (!known(a) || !known(b)) return Number(!known(a)) - Number(!known(b));
    return way * (typeof a === "string" ? a.localeCompare(b) : a - b);
  });
}

function sortableTable(place, columns, rows, start) {
  let order = start, all = false;
  const table = element("table"), head = element("thead"), body = element("tbody");
  const titles = element("tr"), more = element("button", "", { type: "button", class: "more" });
  head.append(titles);
  table.append(head, body);
  const wrap = element("div", null, { class: "scroll", tabindex: "0" });
  wrap.append(table);
  place.append(wrap, more);

  for (const column of columns) {
    const cell = element("th", null, { scope: "col" });
    const button = element("button", column.title, { type: "button" });
    if (column.unit) button.append(element("small", column.unit));
    button.addEventListener("click", () => {
      const same = order.key === column.key;
      order = { key: column.key, down: same ? !order.down : column.key !== "name" };
      draw();
    });
    cell.append(button);
    titles.append(cell);
  }
  more.addEventListener("click", () => {
    all = !all;
    draw();
  });

  function draw() {
    columns.forEach((column, position) => {
      const here = column.key === order.key;
      const word = here ? (order.down ? "descending" : "ascending") : "none";
      titles.children[position].setAttribute("aria-sort", word);
    });
    const ordered = sorted(rows, order.key, order.down);
    body.replaceChildren(
      ...(all ? ordered : ordered.slice(0, ROWS_AT_FIRST)).map((row) => {
        const line = element("tr");
        columns.forEach((column, position) => {
          line.append(element(position ? "td" : "th", column.write(row[column.key])));
        });
        return line;
      }),
    );
    more.hidden = rows.length <= ROWS_AT_FIRST;
    more.textContent = all ? `only the first ${ROWS_AT_FIRST}` : `all ${whole(rows.length)} rows`;
  }
  draw();
}

function drawRollUps(data) {
  for (const [name, rows] of Object.entries(data.rollups)) {
    const columns = ROLL_UP_COLUMNS.map((column) => ({ ...column }));
    columns[0].title = name;
    const start = name === "week" ? { key: "name", down: true } : { key: "spent", down: true };
    sortableTable(document.getElementById(`by-${name}`), columns, rows, start);
  }
}

function drawMarked(data) {
  const list = document.getElementById("marked");
  const rows = data.marked.map(({ run, why }) => [run, why]);
  document.getElementById("marked-section").hidden = rows.length === 0;
  for (const [run, why] of rows) {
    const line = element("li");
    const url = pageOf(data.runs, run);
    const name = data.runs.name[run];
    line.append(
      url ? element("a", name, { href: url, target: "_blank", rel: "noopener noreferrer" }) : name,
      `: ${compute(data.runs.spent[run] ?? data.runs.flops[run])}; ${why}`,
    );
    list.append(line);
  }
  document.getElementById("marked-more").textContent = data.markedMore;
}
