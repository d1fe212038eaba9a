// Charts of a study with several radii: each shows what its selector says.

function startChoice(selector, chart, choices) {
  const select = byId(selector);
  setOptions(select, choices.map((choice) => choice.label));
  select.selectedIndex = Math.max(0, choices.findIndex((choice) => choice.first));
  const draw = () => {
    const { figure } = choices[select.selectedIndex];
    Plotly.react(chart, figure.data, figure.layout, { responsive: true, displaylogo: false });
  };
  select.addEventListener("change", draw);
  draw();
}

const { radii } = JSON.parse(document.getElementById("data").textContent);
startChoice("radius", "front-radius", radii.fronts);
startChoice("curve", "curves", radii.curves);
