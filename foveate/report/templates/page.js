"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const shown = new Map(); // figure name -> index of the view on show
  const holder = document.getElementById("figures");
  const figures = holder ? JSON.parse(holder.textContent) : {};

  // "--name" becomes the colour that the style sheet gives it in the current theme.
  const resolve = (value, css) => {
    if (typeof value === "string") return value.startsWith("--") ? css.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((v) => resolve(v, css));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, css)]));
    return value;
  };

  const axis = (given, small) => ({
    gridcolor: "--line", zeroline: false, zerolinecolor: "--soft", linecolor: "--rule", fixedrange: true,
    automargin: true, ticks: "", tickfont: { color: "--soft" }, nticks: small ? 5 : 8, ...given,
    title: { standoff: 12, font: { color: "--soft", size: 13 }, ...(given && given.title) },
  });

  const draw = (name) => {
    const box = document.getElementById(`${name}-plot`);
    const view = figures[name][shown.get(name) || 0];
    const css = getComputedStyle(root);
    const small = box.clientWidth < 520;
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
      hovermode: "closest", autosize: true, ...view.layout,
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "--ink" },
      margin: { l: 8, r: small ? 8 : 20, t: 26, b: 8 },
      hoverlabel: { bgcolor: "--raise", bordercolor: "--rule", align: "left", font: { color: "--ink", size: 13 } },
      xaxis: axis({ showgrid: false, showline: true, ...view.layout.xaxis }, small),
      yaxis: axis(view.layout.yaxis, false),
    };
    Plotly.react(box, resolve(view.data, css), resolve(layout, css), { displayModeBar: false, responsive: true });
    document.getElementById(`${name}-y`).textContent = view.y;
    for (const key of box.parentNode.querySelectorAll("[data-key]")) key.hidden = !view.keys.includes(key.dataset.key);
  };
  const drawAll = () => Object.keys(figures).forEach(draw);

  document.querySelectorAll("[data-figure] [data-view]").forEach((button) =>
    button.addEventListener("click", () => {
      const name = button.closest("[data-figure]").dataset.figure;
      shown.set(name, Number(button.dataset.view));
      for (const other of button.parentNode.children) other.setAttribute("aria-pressed", String(other === button));
      draw(name);
    }));

  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (system.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try { localStorage.setItem("foveate-theme", root.dataset.theme); } catch (e) { /* not kept */ }
    drawAll();
  });
  system.addEventListener("change", drawAll);
  drawAll();
})();
