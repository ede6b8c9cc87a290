"use strict";
// The map of `diffcse explore`. One idea: some points are chosen, by search, by lasso or box, or by a click on a group.
// Chosen points are drawn again, larger and on top of all points in grey; they are listed and can be saved.
// Data is shown through textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const [map, tip, list, legend] = ["map", "tip", "list", "legend"].map(at);
  const total = data.texts.length, lower = data.texts.map((text) => text.toLowerCase());
  const LISTED = 200, GREY = "#8a9099";
  // No two are near in OKLab, and each is visible on white and on the dark paper. Grey is for points not chosen.
  const PALETTE = ["#2d4bff", "#ff693c", "#007800", "#f00087", "#1ec3e1", "#9600f0", "#4bc300", "#96874b", "#e196e1", "#0f7896", "#c32d00", "#964b87", "#7887ff", "#f000ff"];
  let chosen = null; // numbers of points; null: nothing is chosen
  let drawing = false;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const element = (tag, text) => { const made = document.createElement(tag); made.textContent = text; return made; };
  const paint = (i) => PALETTE[i] ?? `hsl(${Math.round((i * 137.508) % 360)} 65% ${i % 2 ? 45 : 58}%)`;
  const shownColumn = () => data.columns.find((each) => each.name === at("colour").value);
  const value = (column, row) => (column.kind === "numbers" ? column.values[row] ?? "" : column.names[column.codes[row]]);

  function marker(column) {
    if (!column) return { color: PALETTE[0] };
    if (column.kind === "groups") return { color: column.codes.map((code) => paint(code)) };
    const numbers = column.values.filter((each) => each !== null);
    const [cmin, cmax] = [Math.min, Math.max].map((pick) => numbers.reduce((a, b) => pick(a, b)));
    return { color: column.values, cmin, cmax, colorscale: "Viridis", showscale: true, colorbar: { thickness: 12 } };
  }

  // The second trace takes no hover, so that the first one, which has all points, answers with a row's number.
  function traces(column) {
    const size = total > 20000 ? 3 : total > 3000 ? 5 : 7, full = marker(column);
    const type = document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter";
    const trace = (x, y, more) => ({ type, mode: "markers", x, y, selectedpoints: null, ...more });
    if (!chosen) return [trace(data.x, data.y, { hoverinfo: "none", marker: { ...full, size, opacity: 0.75 } })];
    const taken = (values) => chosen.map((row) => values[row]);
    const color = Array.isArray(full.color) ? taken(full.color) : full.color;
    return [
      trace(data.x, data.y, { hoverinfo: "none", marker: { color: GREY, size, opacity: 0.15 } }),
      trace(taken(data.x), taken(data.y), { hoverinfo: "skip", marker: { ...full, color, size: size + 3, opacity: 1 } }),
    ];
  }

  function layout() {
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, dragmode: matchMedia("(pointer: coarse)").matches ? "pan" : "lasso", hovermode: "closest",
      paper_bgcolor: css("--paper"), plot_bgcolor: css("--paper"), font: { color: css("--ink") }, showlegend: false,
      xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--ink") },
    };
  }

  function draw() {
    const config = { displaylogo: false, responsive: true, scrollZoom: true, modeBarButtonsToRemove: ["toImage", "autoScale2d"] };
    const kept = map.layout ? { ...layout(), xaxis: map.layout.xaxis, yaxis: map.layout.yaxis, dragmode: map.layout.dragmode } : layout();
    drawing = true; // removing the outline of a selection sends an event of a selection without points
    Plotly.react(map, traces(shownColumn()), { ...kept, selections: [] }, config).then(() => { drawing = false; });
  }

  function showLegend() {
    const column = shownColumn();
    legend.replaceChildren();
    if (column && column.kind === "groups") showGroups(column);
  }

  function showGroups(column) {
    const members = column.names.map(() => []);
    column.codes.forEach((code, row) => members[code].push(row));
    column.names.forEach((name, i) => {
      const button = element("button", `${name} (${members[i].length.toLocaleString("en")})`);
      const dot = document.createElement("i");
      dot.style.background = paint(i);
      button.prepend(dot);
      button.onclick = () => choose(members[i]);
      legend.append(button);
    });
  }

  function choose(rows) {
    chosen = rows;
    const count = rows ? rows.length : 0;
    at("count").textContent = rows ? `${count.toLocaleString("en")} of ${total.toLocaleString("en")} chosen` : `${total.toLocaleString("en")} texts`;
    at("save").disabled = !count;
    at("clear").disabled = !rows;
    at("listed").textContent = !rows ? "" : count > LISTED ? `The first ${LISTED} chosen texts` : "Chosen texts";
    list.replaceChildren(...(rows || []).slice(0, LISTED).map((row) => element("li", data.texts[row])));
    draw();
  }

  function search() {
    const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [];
    for (let row = 0; row < total; row++) if (words.every((word) => lower[row].includes(word))) rows.push(row);
    choose(words.length ? rows : null);
  }

  function save() {
    const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const line = (cells) => cells.map((each) => cell(String(each))).join(",");
    const names = data.columns.map((column) => column.name), counted = !names.includes("row"); // an index has its own row
    const lines = [line([...(counted ? ["row"] : []), "text", ...names])];
    for (const row of chosen) lines.push(line([...(counted ? [row] : []), data.texts[row], ...data.columns.map((column) => value(column, row))]));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
    link.download = "selection.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function showTip(event) {
    const row = event.points[0].pointIndex, text = data.texts[row];
    const facts = data.columns.map((column) => `${column.name}: ${value(column, row)}`).join(" · ");
    const below = element("p", facts);
    below.className = "muted";
    tip.replaceChildren(element("p", text.length > 600 ? `${text.slice(0, 600)} …` : text), below);
    tip.hidden = false;
    const { clientX: x, clientY: y } = event.event;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 14 + tip.offsetHeight < innerHeight ? y + 14 : Math.max(4, y - 14 - tip.offsetHeight)}px`;
  }

  at("colour").append(new Option("none", ""), ...data.columns.filter((each) => each.kind !== "texts").map((each) => new Option(each.name, each.name)));
  at("colour").value = data.colour ?? "";
  choose(null);
  showLegend();
  map.on("plotly_hover", showTip);
  map.on("plotly_unhover", () => { tip.hidden = true; });
  map.on("plotly_selected", (event) => {
    if (drawing || !event?.points) return;
    const rows = event.points.filter((point) => point.curveNumber === 0).map((point) => point.pointIndex);
    setTimeout(() => choose(rows)); // after plotly has ended its own drawing of the selection
  });
  map.on("plotly_deselect", () => setTimeout(() => choose(null)));
  let pause;
  at("search").oninput = () => { clearTimeout(pause); pause = setTimeout(search, 120); };
  at("colour").onchange = () => { draw(); showLegend(); };
  at("save").onclick = save;
  at("clear").onclick = () => { at("search").value = ""; choose(null); };
  matchMedia("(prefers-color-scheme: dark)").onchange = () => { Plotly.relayout(map, layout()); };
})();
