// Charts of a study with several radii: each shows what its selector says.

function startChoice(selector, chart, choices) {
  const select = byId(selector);
  setOptions(select, choices.map((choice) => choice.label));
  select.selectedIndex = Math.max(0, choices.findIndex((choice) => choice.first));
  const show = () => {
    const { figure, said } = choices[select.selectedIndex];
    byId(`${chart}-said`).textContent = said;
    draw(chart, figure);
  };
  select.addEventListener("change", show);
  show();
}

function startRadii() {
  const { radii } = JSON.parse(byId("data").textContent);
  startChoice("radius", "front-radius", radii.fronts);
  startChoice("curve", "curves", radii.curves);
}
