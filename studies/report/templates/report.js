"use strict";
// The moving parts of the report: charts, the λ slider, what a clicked mark is, sorting.

const { points, figures } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** Make an element with children; text is never read as HTML. */
function make(tag, children = [], attributes = {}) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function drawCharts() {
  for (const [id, figure] of Object.entries(figures)) {
    if (byId(id)) draw(id, figure);
  }
  startZoom(byId("front-zoom"), byId("front"));
  byId("front").on("plotly_click", ({ points: [mark] }) => {
    if (mark.customdata !== undefined) showDetails(points[mark.customdata]);
  });
}

/** List the runs of a point, as links where MLflow knows them. */
function runList(point) {
  const items = point.runs.map(([text, url]) =>
    make("li", [url ? make("a", [text], { href: url, target: "_blank", rel: "noopener" }) : text]),
  );
  return make("ul", items, { class: "runs" });
}

function showDetails(point) {
  const facts = point.facts.map(([label, text]) =>
    make("div", [make("dt", [label]), make("dd", [text])]),
  );
  facts.push(make("div", [make("dt", ["runs"]), make("dd", [runList(point)])], { class: "wide" }));
  byId("details").replaceChildren(make("strong", [point.name]), make("dl", facts));
}

/** Fill a selector, and keep what was chosen if it is still possible. */
function setOptions(select, values) {
  const before = select.value;
  select.replaceChildren(...values.map((value) => make("option", [value], { value })));
  if (values.includes(before)) select.value = before;
  select.disabled = values.length < 2;
}

const unique = (values) => [...new Set(values)];

/** Move the rings of the chart to two points; without a second its ring is taken away. */
function ring(here, near) {
  const places = { here, nearest: near };
  for (const trace of figures.front.data.filter(({ uid }) => uid in places)) {
    const point = places[trace.uid];
    trace.x = point ? [100 * point.sa] : [];
    trace.y = point ? [100 * point.ra] : [];
  }
  draw("front", figures.front);
}

function comparisonTable(here, near) {
  const columns = near ? [here, near] : [here];
  const head = columns.map((point) => make("th", [point.name], { scope: "col" }));
  const rows = here.facts
    .filter(([label]) => label !== "width")
    .map(([label, text], i) => {
      const other = near && near.facts.find(([name]) => name === label);
      const cells = near ? [text, other ? other[1] : ""] : [text];
      return make("tr", [
        make("th", [label], { scope: "row" }),
        ...cells.map((cell) => make("td", [cell.replace(" [", "\n[")])),
      ]);
    });
  rows.push(
    make("tr", [
      make("th", ["runs"], { scope: "row" }),
      ...columns.map((point) => make("td", [runList(point)])),
    ]),
  );
  return make("table", [
    make("thead", [make("tr", [make("td"), ...head])]),
    make("tbody", rows),
  ]);
}

function showOperatingPoint(here) {
  const near = here.nearest && points[here.nearest.place];
  const said = near
    ? `Minus the nearest retrained model, in points: ${here.nearest.said}.`
    : "No retrained model has this width.";
  byId("operating").replaceChildren(make("p", [said]), comparisonTable(here, near));
  ring(here, near);
}

function startControls() {
  const [variant, width, lam] = ["variant", "width", "lam"].map(byId);
  const once = points.filter((point) => point.once);
  const chosen = () =>
    once.filter((p) => p.variant === variant.value && String(p.width) === width.value);

  function onLam() {
    const here = chosen()[lam.valueAsNumber];
    byId("lam-value").textContent = here.value;
    lam.setAttribute("aria-valuetext", here.value);
    showOperatingPoint(here);
  }
  function onWidth() {
    const values = chosen().map((point) => point.value);
    const before = values.indexOf(byId("lam-value").textContent);
    lam.max = values.length - 1;
    lam.value = before < 0 ? Math.floor(values.length / 2) : before;
    onLam();
  }
  function onVariant() {
    const own = once.filter((point) => point.variant === variant.value);
    setOptions(width, unique(own.map((point) => String(point.width))));
    onWidth();
  }
  setOptions(variant, unique(once.map((point) => point.variant)));
  if (variant.disabled) {
    variant.hidden = true;
    document.querySelector("label[for=variant]").hidden = true;
  }
  variant.addEventListener("change", onVariant);
  width.addEventListener("change", onWidth);
  lam.addEventListener("input", onLam);
  onVariant();
}

/** Order two keys: numbers by value, texts by alphabet; what is empty comes last. */
function compareKeys(one, other, direction) {
  if (one === "" || other === "") return (one === "") - (other === "");
  const difference = Number(one) - Number(other);
  return direction * (Number.isNaN(difference) ? compareTexts(one, other) : difference);
}

/** Order two texts by alphabet, and by value the numbers within: λ=0.05 before λ=0.2. */
function compareTexts(one, other) {
  const number = /(\d+(?:\.\d+)?(?:e[+-]?\d+)?)/;
  const [mine, theirs] = [one, other].map((text) => text.split(number));
  for (let i = 0; i < Math.min(mine.length, theirs.length); i += 1) {
    // every second piece is a number
    const order = i % 2 ? mine[i] - theirs[i] : mine[i].localeCompare(theirs[i]);
    if (order) return order;
  }
  return mine.length - theirs.length;
}

function makeSortable(table) {
  const headers = [...table.querySelectorAll("thead th")];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.key;
      const direction = ascending ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => compareKeys(key(a), key(b), direction)));
    });
  });
}
