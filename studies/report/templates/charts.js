// Drawing: the charting library is unpacked, charts follow the theme of the page, labels find room.

const DIGITS = // of base 85, as studies/report/page.py writes them
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"],
};
const dark = matchMedia("screen and (prefers-color-scheme: dark)");
const paper = matchMedia("print");
const RING = "#111111"; // as studies/report/charts.py has it
const PAPER_WIDTH = 680; // of A4 between its margins, in pixels

/** Read text in base 85: five signs are four bytes. */
function bytesOf(text) {
  const value = new Uint8Array(128);
  [...DIGITS].forEach((sign, i) => { value[sign.charCodeAt(0)] = i; });
  const groups = Math.ceil(text.length / 5);
  const padded = text.padEnd(5 * groups, "~");
  const view = new DataView(new ArrayBuffer(4 * groups));
  for (let group = 0; group < groups; group += 1) {
    let number = 0;
    for (let k = 0; k < 5; k += 1) number = 85 * number + value[padded.charCodeAt(5 * group + k)];
    view.setUint32(4 * group, number);
  }
  return new Uint8Array(view.buffer, 0, Math.floor((4 * text.length) / 5));
}

/** Unpack the charting library, which the page holds compressed. */
async function loadPlotly() {
  const packed = new Blob([bytesOf(byId("plotly").textContent.trim())]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
  document.head.append(make("script", [await new Response(stream).text()]));
}

const shown = new Map(); // the figure of each chart by its id, as it was given

/** Draw a chart in the colours of the theme; on paper it has the width of a page. */
function draw(id, figure) {
  shown.set(id, figure);
  const theme = getComputedStyle(document.documentElement);
  const colour = (name) => theme.getPropertyValue(`--${name}`).trim();
  const axis = { gridcolor: colour("grid"), linecolor: colour("soft") };
  const tone = (key, value) => {
    if (key !== "color" || typeof value !== "string") return value;
    return value === RING ? colour("ink") : toned(value);
  };
  const layout = {
    ...figure.layout,
    font: { ...figure.layout.font, color: colour("ink") },
    paper_bgcolor: colour("paper"),
    plot_bgcolor: colour("paper"),
    hoverlabel: { ...figure.layout.hoverlabel, bgcolor: colour("faint"), bordercolor: colour("soft") },
    xaxis: { ...figure.layout.xaxis, ...axis },
    yaxis: { ...figure.layout.yaxis, ...axis },
  };
  layout.hoverlabel.font = { ...layout.hoverlabel.font, color: colour("ink") };
  if (paper.matches) layout.width = PAPER_WIDTH;
  const first = !byId(id).data;
  Plotly.react(id, JSON.parse(JSON.stringify(figure.data), tone), layout, CONFIG);
  if (first) byId(id).on("plotly_afterplot", () => label(byId(id)));
  label(byId(id));
}

/** Lighten a colour such as #0072B280 on dark paper. */
function toned(colour) {
  return dark.matches ? mixed(colour, 255) : colour;
}

/** Return a colour for a text beside a mark of a colour, which can be read on the page. */
const inked = (colour) => mixed(colour, dark.matches ? 255 : 0);

/** Mix a colour such as #0072B280 with white, 255, or black, 0; others stay as they are. */
function mixed(colour, other) {
  if (!/^#([0-9a-f]{2}){3,4}$/i.test(colour)) return colour;
  const part = (at) => parseInt(colour.slice(at, at + 2), 16);
  const mix = (value) => Math.round(0.65 * value + 0.35 * other).toString(16).padStart(2, "0");
  return `#${[1, 3, 5].map((at) => mix(part(at))).join("")}${colour.slice(7)}`;
}

function redraw() {
  for (const [id, figure] of shown) draw(id, figure);
}

const DIRECTIONS = [
  [1, 1], [1, -1], [-1, 1], [-1, -1], [1, 0], [-1, 0], [0, 1], [0, -1],
  [1, 0.5], [1, -0.5], [-1, 0.5], [-1, -0.5], [0.5, 1], [0.5, -1], [-0.5, 1], [-0.5, -1],
];
const STEPS = [0.1, 0.8, 1.6, 2.6, 4, 6, 8]; // from a mark to its label, in heights of a label
const HEIGHT = 13;
const RADIUS = 7;
const overlaps = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
const around = ([x, y], width, height) => [x - width / 2, y - height / 2, x + width / 2, y + height / 2];

/** Find a place for the label of a mark that hides no mark and no label; null where there is none.
 *  The same rule as in studies/report/labels.py: nearest first, better on no bar and by no other mark. */
function placeOf([x, y], width, marks, bars, taken, frame) {
  let best = null;
  for (const [step, distance] of STEPS.entries()) {
    for (const [right, up] of DIRECTIONS) {
      const away = [
        right * (width / 2 + RADIUS + distance * HEIGHT),
        -up * (HEIGHT / 2 + RADIUS + distance * HEIGHT),
      ];
      const [u, v] = [x + away[0], y + away[1]];
      const box = around([u, v], width, HEIGHT);
      const inside = box[0] > frame[0] && box[1] > frame[1] && box[2] < frame[2] && box[3] < frame[3];
      const hides = marks.some((mark) => overlaps(box, around(mark, 2 * RADIUS, 2 * RADIUS)));
      if (!inside || hides || taken.some((other) => overlaps(box, other))) continue;
      const other = marks.some(
        ([s, t]) =>
          Math.hypot(s - x, t - y) > 1 && Math.hypot(s - u, t - v) < 1.3 * Math.hypot(...away),
      );
      const crossed = bars.filter((bar) => overlaps(box, bar)).length;
      const cost = step + 1.2 * crossed + 1.5 * other;
      if (best === null || cost < best.cost) best = { cost, away, box, lined: step > 1 || other };
    }
  }
  return best;
}

/** Return the error bars of a mark as rectangles. */
function barsOf({ error_x: across, error_y: along }, i, [x, y], { xaxis, yaxis }) {
  const length = (axis, value) => Math.abs(axis.d2p(value) - axis.d2p(0));
  return [
    [x - length(xaxis, across.arrayminus[i]), y - 1, x + length(xaxis, across.array[i]), y + 1],
    [x - 1, y - length(yaxis, along.array[i]), x + 1, y + length(yaxis, along.arrayminus[i])],
  ];
}

/** Return the labels of the marks that are in view. */
function markLabels(chart) {
  const { xaxis, yaxis } = chart._fullLayout; // plotly has no public way from values to pixels
  const frame = [0, 0, xaxis._length, yaxis._length];
  const labelled = chart.data.filter(({ meta, visible }) => meta && meta.labels && visible !== "legendonly");
  const marks = labelled.flatMap((trace) =>
    trace.meta.labels.map((text, i) => {
      const [x, y] = [trace.x[i], trace.y[i]];
      const at = [xaxis.d2p(x), yaxis.d2p(y)];
      const bars = barsOf(trace, i, at, chart._fullLayout);
      return { text, x, y, at, bars, colour: colourOf(chart, trace) };
    }),
  );
  const seen = marks.filter(({ at }) => overlaps(around(at, 1, 1), frame));
  const places = seen.map(({ at }) => at);
  const bars = seen.flatMap((mark) => mark.bars);
  const taken = [];
  return seen.flatMap(({ text, x, y, at, colour }) => {
    const place = placeOf(at, 6.5 * text.length + 4, places, bars, taken, frame);
    if (place === null) return [];
    taken.push(place.box);
    return [annotation(text, x, y, place.away, place.lined, colour)];
  });
}

/** Return the labels at the ends of lines, moved apart; as many as there is room for. */
function endLabels(chart) {
  const { yaxis } = chart._fullLayout;
  const room = Math.floor(yaxis._length / HEIGHT);
  const ends = chart.data
    .filter(({ meta, visible }) => meta && meta.ends && visible !== "legendonly")
    .flatMap((trace) => trace.meta.ends.map((end) => ({ ...end, colour: colourOf(chart, trace) })))
    .map((end) => ({ ...end, at: yaxis.d2p(end.y) }))
    .filter(({ at }) => at >= 0 && at <= yaxis._length)
    .sort((one, other) => one.at - other.at)
    .slice(0, room);
  let lowest = -Infinity;
  for (const end of ends) {
    end.place = Math.max(end.at, lowest + HEIGHT);
    lowest = end.place;
  }
  let highest = yaxis._length;
  for (const end of ends.reverse()) { // back up from the lower edge
    end.place = Math.min(end.place, highest);
    highest = end.place - HEIGHT;
  }
  return ends.map(({ text, x, y, at, place, colour }) => ({
    ...annotation(text, x, y, [18, place - at], true, colour), xanchor: "left", standoff: 2,
  }));
}

/** Return the colour of the labels of a trace, by its colour before that of the theme. */
function colourOf(chart, { name }) {
  const { line } = shown.get(chart.id).data.find((trace) => trace.name === name);
  return inked(line.color);
}

function annotation(text, x, y, [ax, ay], lined, colour) {
  return {
    text, x, y, ax, ay, showarrow: true, arrowhead: 0, arrowwidth: 0.6, standoff: RADIUS - 1,
    arrowcolor: lined ? colour : "rgba(0,0,0,0)", font: { size: 11, color: colour }, borderpad: 0,
  };
}

const labels = new Map(); // of each chart by its id, as text

/** Set the labels of a chart, unless they are there: to set them draws it anew. */
async function label(chart) {
  const wanted = [...markLabels(chart), ...endLabels(chart)];
  const said = JSON.stringify(wanted);
  const there = (chart.layout.annotations || []).length;
  if (said === labels.get(chart.id) && there === wanted.length) return;
  labels.set(chart.id, said);
  await Plotly.relayout(chart, { annotations: wanted });
}

/** Let a button show all of 0 to 100 percent, or the part where the points are. */
function startZoom(button, chart) {
  const near = button.textContent;
  let whole = false;
  button.addEventListener("click", async () => {
    whole = !whole;
    const view = (axis) =>
      whole ? { [`${axis}.range`]: [0, 100] } : { [`${axis}.autorange`]: true };
    await Plotly.relayout(chart, { ...view("xaxis"), ...view("yaxis") });
    await label(chart);
    button.textContent = whole ? "Zoom to the points" : near;
  });
}

async function start() {
  document.querySelectorAll("table[id]").forEach(makeSortable);
  try {
    await loadPlotly();
  } catch (error) {
    byId("no-charts").hidden = false;
    throw error;
  }
  drawCharts();
  if (byId("lam")) startControls();
  if (typeof startRadii === "function") startRadii();
  dark.addEventListener("change", redraw);
  paper.addEventListener("change", () => {
    if (paper.matches) document.querySelectorAll("details").forEach((one) => { one.open = true; });
    redraw();
  });
  document.documentElement.dataset.charts = "drawn";
}
