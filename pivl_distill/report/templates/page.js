"use strict";

/* Charts: Plotly is started after the page has been shown, and charts are drawn one by one. */

function startPlotly() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
}

const drawn = new Set();

function draw(element) {
  if (drawn.has(element)) return;
  drawn.add(element);
  startPlotly();
  const data = document.querySelector(`script[data-for="${element.id}"]`);
  const { figure } = JSON.parse(data.textContent);
  const options = { responsive: true, displayModeBar: false, scrollZoom: false };
  Plotly.newPlot(element, figure.data, figure.layout, options);
}

const waiting = [...document.querySelectorAll(".chart")];

function drawNext() {
  const element = waiting.shift();
  if (!element) {
    document.documentElement.dataset.drawn = "";
    return;
  }
  draw(element);
  setTimeout(drawNext);
}

function axes(element) {
  return Object.keys(element._fullLayout).filter((name) => /^[xy]axis\d*$/.test(name));
}

function toggleLog(element, button) {
  const log = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(log));
  const change = {};
  for (const name of axes(element)) {
    if (!name.startsWith(button.dataset.log)) continue;
    change[`${name}.type`] = log ? "log" : "linear";
    change[`${name}.autorange`] = true;
  }
  Plotly.relayout(element, change);
}

function zoom(element, factor) {
  const change = {};
  for (const name of axes(element)) {
    const [low, high] = element._fullLayout[name].range.map(Number);
    const middle = (low + high) / 2, half = ((high - low) / 2) * factor;
    if (Number.isFinite(half)) change[`${name}.range`] = [middle - half, middle + half];
  }
  Plotly.relayout(element, change);
}

function reset(element) {
  const change = {};
  for (const name of axes(element)) change[`${name}.autorange`] = true;
  Plotly.relayout(element, change);
}

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button[data-chart]");
  if (!button) return;
  const element = document.getElementById(button.dataset.chart);
  draw(element);
  if ("log" in button.dataset) toggleLog(element, button);
  else if ("zoom" in button.dataset) zoom(element, Number(button.dataset.zoom));
  else reset(element);
});

addEventListener("beforeprint", () => waiting.splice(0).forEach(draw));

/* Tables: the first click on a heading sorts in ascending order, the next one in descending. */

function sortTable(heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = [...body.rows].map((row) => {
    const cell = row.cells[column];
    return [cell.dataset.value === undefined ? null : Number(cell.dataset.value), cell.textContent, row];
  });
  rows.sort(([first, firstText], [second, secondText]) => {
    if (first === null && second === null) return firstText.localeCompare(secondText);
    if (first === null || second === null) return first === null ? 1 : -1;
    return first - second;
  });
  if (!ascending) rows.reverse();
  body.append(...rows.map(([, , row]) => row));
}

for (const button of document.querySelectorAll(".sorter")) {
  button.addEventListener("click", () => sortTable(button.closest("th")));
}

/* Rows of pictures: the first ones, until the reader asks for all. */

for (const button of document.querySelectorAll("button[data-more]")) {
  const list = document.getElementById(button.dataset.more);
  list.classList.add("cut");
  button.hidden = false;
  button.addEventListener("click", () => {
    list.classList.remove("cut");
    button.hidden = true;
  });
}

/* Rows of pictures: sorted by the value that the reader chooses. */

for (const select of document.querySelectorAll("select[data-rows]")) {
  select.addEventListener("change", () => {
    const list = document.getElementById(select.dataset.rows);
    const value = (row) => Number(row.dataset.values.split(" ")[Number(select.value)]);
    list.append(...[...list.children].sort((a, b) => value(a) - value(b)));
  });
}

requestAnimationFrame(() => setTimeout(drawNext));
