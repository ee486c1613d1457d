"use strict";

const said = document.getElementById("said");

// -- tables: a header's button sorts, the third time as they were -------------

const NEXT = {
  number: { none: "descending", descending: "ascending", ascending: "none" },
  text: { none: "ascending", ascending: "descending", descending: "none" },
};

// A cell's number, or its text; null, which comes last, where it has none.
function keyOf(row, column, kind) {
  const cell = row.cells[column];
  if (kind === "text") return cell.textContent.trim();
  const text = cell.dataset.value;
  return text ? Number(text) : null;
}

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}

function sort(table, rows, column) {
  const headers = [...table.tHead.rows[0].cells];
  const header = headers[column];
  const kind = header.dataset.sort;
  const order = NEXT[kind][header.getAttribute("aria-sort") ?? "none"];
  headers.forEach((other) => other.removeAttribute("aria-sort"));
  table.classList.toggle("sorted", order !== "none");
  let sorted = rows;
  if (order !== "none") {
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const keyed = rows.map((row) => [keyOf(row, column, kind), row]);
    const there = keyed.filter(([key]) => key !== null);
    const missing = keyed.filter(([key]) => key === null);
    there.sort(([a], [b]) => sign * compare(a, b));
    sorted = [...there, ...missing].map(([, row]) => row);
  }
  table.tBodies[0].append(...sorted);
  const name = header.innerText.replace(/\s+/g, " ").trim();
  said.textContent = order === "none"
    ? "Rows are in their original order."
    : `Rows are sorted by ${name}, ${order}.`;
}

for (const table of document.querySelectorAll("table")) {
  const rows = [...table.tBodies[0].rows];
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (!header.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, rows, column));
  });
}

// -- figures: a point says its values when it is pointed at or stepped to -----

const HINT = "Point at a line to read its values; or move the focus to a panel"
  + " and use the arrow keys.";

const KEYS = [
  "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End",
];

// The point to which a key leads from another; none: the first line's last.
function step(lines, from, key) {
  if (!from) return lines[0].at(-1);
  const number = lines.findIndex((line) => line.includes(from));
  const line = lines[number];
  const at = line.indexOf(from);
  const x = (point) => Number(point.getAttribute("cx"));
  const beside = (other) => other.reduce((best, point) =>
    Math.abs(x(point) - x(from)) < Math.abs(x(best) - x(from)) ? point : best);
  const last = lines.length - 1;
  switch (key) {
    case "ArrowLeft": return line[Math.max(at - 1, 0)];
    case "ArrowRight": return line[Math.min(at + 1, line.length - 1)];
    case "Home": return line[0];
    case "End": return line.at(-1);
    case "ArrowUp": return beside(lines[number ? number - 1 : last]);
    case "ArrowDown": return beside(lines[number < last ? number + 1 : 0]);
  }
}

for (const figure of document.querySelectorAll("figure")) {
  const output = figure.querySelector("output");
  output.textContent = HINT;
  let shown = null;
  const read = (point) => {
    shown?.classList.remove("read");
    point.classList.add("read");
    shown = point;
    output.textContent = point.querySelector("title").textContent;
  };
  figure.addEventListener("pointerover", (event) => {
    const point = event.target.closest(".point");
    if (point) read(point);
  });
  for (const panel of figure.querySelectorAll(".panel")) {
    const lines = [...panel.children].map((line) => [...line.children]);
    panel.setAttribute("tabindex", "0");
    panel.setAttribute("role", "application");
    panel.addEventListener("keydown", (event) => {
      const from = panel.contains(shown) ? shown : null;
      if (!KEYS.includes(event.key)) return;
      event.preventDefault();
      read(step(lines, from, event.key));
    });
  }
}

// -- printing -----------------------------------------------------------------

const printing = document.getElementById("print");
printing.hidden = false;
printing.addEventListener("click", () => window.print());
