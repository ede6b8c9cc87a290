"use strict";
// The map of `diffcse explore`. One idea: some points are chosen, by search, by lasso or box, or by a click on a group.
// Chosen points stay bright, are listed, and can be saved. Data is shown through textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const [map, tip, list, legend] = ["map", "tip", "list", "legend"].map(at);
  const total = data.texts.length, lower = data.texts.map((text) => text.toLowerCase());
  const LISTED = 200, PALETTE = ["#2f7fc1", "#d97706", "#2a9d4a", "#c2417c", "#8a63d2", "#0f9aa8", "#a8741a", "#d9483b", "#6b8e23", "#808890"];
  let chosen = null; // numbers of points; null: nothing is chosen

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const element = (tag, text) => { const made = document.createElement(tag); made.textContent = text; return made; };
  const paint = (i, n) => (n <= PALETTE.length ? PALETTE[i] : `hsl(${Math.round((i * 137.508) % 360)} 65% ${i % 2 ? 45 : 58}%)`);
  const value = (column, row) => (column.kind === "numbers" ? column.values[row] ?? "" : column.names[column.codes[row]]);

  function marker(column) {
    const size = total > 20000 ? 3 : total > 3000 ? 5 : 7;
    if (!column) return { size, color: PALETTE[0] };
    if (column.kind === "numbers") return { size, color: column.values, colorscale: "Viridis", showscale: true, colorbar: { thickness: 12 } };
    const paints = column.names.map((_, i) => paint(i, column.names.length));
    return { size, color: column.codes.map((code) => paints[code]) };
  }

  function layout() {
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, dragmode: matchMedia("(pointer: coarse)").matches ? "pan" : "lasso", hovermode: "closest",
      paper_bgcolor: css("--paper"), plot_bgcolor: css("--paper"), font: { color: css("--ink") }, showlegend: false,
      xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--ink") },
    };
  }

  function draw() {
    const column = data.columns.find((each) => each.name === at("colour").value);
    const webgl = document.createElement("canvas").getContext("webgl");
    const trace = {
      type: webgl ? "scattergl" : "scatter", mode: "markers", x: data.x, y: data.y, hoverinfo: "none", marker: marker(column),
      selectedpoints: chosen, selected: { marker: { opacity: 0.95 } }, unselected: { marker: { opacity: 0.06 } },
    };
    trace.marker.opacity = 0.75;
    const config = { displaylogo: false, responsive: true, scrollZoom: true, modeBarButtonsToRemove: ["toImage", "autoScale2d"] };
    const kept = map.layout ? { ...layout(), xaxis: map.layout.xaxis, yaxis: map.layout.yaxis, dragmode: map.layout.dragmode } : layout();
    Plotly.react(map, [trace], kept, config);
    legend.replaceChildren();
    if (column && column.kind === "groups") showGroups(column);
  }

  function showGroups(column) {
    const members = column.names.map(() => []);
    column.codes.forEach((code, row) => members[code].push(row));
    column.names.forEach((name, i) => {
      const button = element("button", `${name} (${members[i].length.toLocaleString("en")})`);
      const dot = document.createElement("i");
      dot.style.background = paint(i, column.names.length);
      button.prepend(dot);
      button.onclick = () => choose(members[i]);
      legend.append(button);
    });
  }

  function choose(rows, redraw = true) {
    chosen = rows;
    const count = rows ? rows.length : 0;
    at("count").textContent = rows ? `${count.toLocaleString("en")} of ${total.toLocaleString("en")} chosen` : `${total.toLocaleString("en")} texts`;
    at("save").disabled = !count;
    at("clear").disabled = !rows;
    at("listed").textContent = !rows ? "" : count > LISTED ? `The first ${LISTED} chosen texts` : "Chosen texts";
    list.replaceChildren(...(rows || []).slice(0, LISTED).map((row) => element("li", data.texts[row])));
    if (redraw) Plotly.update(map, { selectedpoints: [rows] }, { selections: [] });
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
    for (const row of chosen) lines.push(line([...(counted ? [row + 1] : []), data.texts[row], ...data.columns.map((column) => value(column, row))]));
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
  draw();
  choose(null);
  map.on("plotly_hover", showTip);
  map.on("plotly_unhover", () => { tip.hidden = true; });
  map.on("plotly_selected", (event) => { if (event && event.points) choose(event.points.map((point) => point.pointIndex), false); });
  map.on("plotly_deselect", () => choose(null));
  let pause;
  at("search").oninput = () => { clearTimeout(pause); pause = setTimeout(search, 120); };
  at("colour").onchange = draw;
  at("save").onclick = save;
  at("clear").onclick = () => { at("search").value = ""; choose(null); };
  matchMedia("(prefers-color-scheme: dark)").onchange = () => { Plotly.relayout(map, layout()); };
})();
