"use strict";
// Asks the server what the model and the attack make of the chosen image at the chosen point.

const facts = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let own = null; // an image of the user's, as the server has read it

/** Make an element with children; text is never read as HTML. */
function make(tag, children = [], attributes = {}) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function complain(said) {
  byId("fault").hidden = !said;
  byId("fault").textContent = said;
}

/** Ask the server; where it refuses, show its sentence and return null. */
async function ask(address, body, type) {
  let answer;
  try {
    answer = await fetch(address, { method: "POST", headers: { "Content-Type": type }, body });
  } catch {
    complain("The demo does not answer; is `oat demo` still running?");
    return null;
  }
  const said = await answer.json();
  complain(answer.ok ? "" : said.error);
  return answer.ok ? said : null;
}

const askFor = (address, wanted) => ask(address, JSON.stringify(wanted), "application/json");

/** Return the λ of the slider: one that is known, or any to three digits. */
function lamOf(slider) {
  if (!facts.anyLam) return facts.lams[slider.valueAsNumber];
  const near = facts.lams.find((lam) => Math.abs(lam - slider.valueAsNumber) < 0.005);
  return near ?? Number(slider.valueAsNumber.toFixed(3));
}

let lam = null;
let width = facts.widths[facts.widths.length - 1];

/** Return what the controls ask for. An empty number is null, which the server refuses. */
function wanted() {
  const number = (id) => (Number.isNaN(byId(id).valueAsNumber) ? null : byId(id).valueAsNumber);
  const image = own ? { image: own } : { index: number("index") };
  return { ...image, lam, width, steps: number("steps") };
}

function showLook(look) {
  byId("clean").src = look.image;
  byId("clean-said").textContent = look.said;
  byId("true-label").hidden = look.label === null;
  byId("true-label").querySelector("b").textContent = facts.classes[look.label];
  byId("found").replaceChildren(
    ...look.found.flatMap(([name, text, url]) => {
      const link = url ? [" ", make("a", ["MLflow run"], { href: url, target: "_blank", rel: "noopener" })] : [];
      return [make("dt", [name]), make("dd", [text, ...link])];
    }),
    ...(look.found.length ? [] : [make("dd", ["The study did not judge this point."])]),
  );
  [...byId("bars").tBodies[0].rows].forEach((row, i) => row.classList.toggle("true", i === look.label));
  showBars("before", look);
}

function showAttack(attack) {
  byId("attacked").src = attack.image;
  byId("change").src = attack.change;
  byId("attacked-said").textContent = attack.said;
  showBars("after", attack);
}

function showBars(name, { probabilities, prediction }) {
  document.querySelectorAll(`#bars td.${name}`).forEach((cell, i) => {
    cell.classList.toggle("best", i === prediction);
    cell.querySelector(".bar span").style.width = percent(probabilities[i]).replace(" ", "");
    cell.lastChild.textContent = percent(probabilities[i]);
  });
}

const markOld = (old) => document.querySelectorAll(".after").forEach((node) => node.classList.toggle("old", old));

let busy = false;
let again = false;

/** Show what is chosen; where the choice changes meanwhile, the newest alone is asked for next. */
async function refresh() {
  again = true;
  if (busy) return;
  busy = true;
  document.body.dataset.busy = "yes";
  while (again) {
    again = false;
    const question = wanted();
    markOld(true);
    const look = await askFor("look", question);
    if (look) showLook(look);
    if (!look || again) continue;
    const attack = await askFor("attack", question);
    if (!attack) continue;
    showAttack(attack);
    markOld(again);
  }
  busy = false;
  document.body.dataset.busy = "no";
}

function chooseIndex(index) {
  own = null;
  byId("file").value = "";
  byId("read").hidden = true;
  if (index !== undefined) byId("index").value = (index + facts.images) % facts.images;
  refresh();
}

async function chooseFile(file) {
  if (!file) return;
  if (file.size > facts.mostBytes) {
    complain(`The file must have at most ${facts.mostBytes / 1e6} MB.`);
    return;
  }
  const read = await ask(`image?name=${encodeURIComponent(file.name)}`, file, "application/octet-stream");
  if (!read) return;
  own = read.image;
  byId("read").textContent = [`${file.name}, resized to the model's images`, ...read.done].join("; ") + ".";
  byId("read").hidden = false;
  refresh();
}

function startImages() {
  const index = byId("index");
  const now = () => (Number.isNaN(index.valueAsNumber) ? 0 : index.valueAsNumber);
  index.addEventListener("change", () => chooseIndex());
  byId("previous").addEventListener("click", () => chooseIndex(now() - 1));
  byId("next").addEventListener("click", () => chooseIndex(now() + 1));
  byId("random").addEventListener("click", () => chooseIndex(Math.floor(Math.random() * facts.images)));
  byId("file").addEventListener("change", (event) => chooseFile(event.target.files[0]));
  const panel = document.querySelector(".panel");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      panel.classList.toggle("over", name === "dragover");
      if (name === "drop") chooseFile(event.dataTransfer.files[0]);
    });
  }
}

/** Make a slider step through values, or run from 0 to 1 where there are none. */
function startSlider(slider, values, first, moved) {
  slider.min = 0;
  slider.max = values ? values.length - 1 : 1;
  slider.step = values ? 1 : "any";
  slider.value = first;
  slider.addEventListener("input", () => { moved(); refresh(); });
  moved();
}

function startLam() {
  const slider = byId("lam");
  const exact = byId("lam-exact");
  const tell = (value) => {
    lam = value;
    byId("lam-value").textContent = `${facts.sign} = ${value ?? ""}`;
    slider.setAttribute("aria-valuetext", `${facts.sign} = ${value ?? ""}`);
  };
  const middle = Math.floor(facts.lams.length / 2);
  startSlider(slider, facts.anyLam ? null : facts.lams, facts.anyLam ? facts.lams[middle] : middle, () => {
    tell(lamOf(slider));
    if (exact) exact.value = lam;
  });
  exact?.addEventListener("change", () => {
    const value = exact.valueAsNumber;
    if (!Number.isNaN(value)) slider.value = value;
    tell(Number.isNaN(value) ? null : value);
    refresh();
  });
}

function startWidth() {
  const slider = byId("width");
  startSlider(slider, facts.widths, facts.widths.length - 1, () => {
    width = facts.widths[slider.valueAsNumber];
    byId("width-value").textContent = width;
    slider.setAttribute("aria-valuetext", width);
  });
}

function startBars() {
  const bar = (name) => make("td", [make("span", [make("span")], { class: "bar" }), ""], { class: name });
  byId("bars").tBodies[0].append(
    ...facts.classes.map((name) => make("tr", [make("th", [name], { scope: "row" }), bar("before"), bar("after")])),
  );
}

startBars();
startImages();
if (byId("lam")) startLam();
if (byId("width")) startWidth();
byId("steps").addEventListener("change", refresh);
refresh();
