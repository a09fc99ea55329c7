// What the libraries cannot know: the page's colours, and which table and charts are theirs to draw.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// plotly draws text and rules in colours of its own; these follow the page's.
function colours() {
  const axis = { gridcolor: style("--rule"), linecolor: style("--rule"), zerolinecolor: style("--rule"), automargin: true };
  return { font: { color: style("--ink"), family: style("--font"), size: 13 }, axis };
}

function draw(target, figure) {
  const { font, axis } = colours();
  const layout = { ...figure.layout, font, autosize: true };
  layout.xaxis = { ...layout.xaxis, ...axis };
  layout.yaxis = { ...layout.yaxis, ...axis };
  for (const trace of figure.data) {
    if (trace.error_y && !trace.error_y.color) trace.error_y.color = style("--ink");
    if (trace.error_x && !trace.error_x.color) trace.error_x.color = style("--ink");
  }
  return Plotly.newPlot(target, figure.data, layout, { responsive: true, displayModeBar: false, displaylogo: false });
}

function recolour() {
  document.documentElement.classList.toggle("dark", dark.matches);
  const { font, axis } = colours();
  for (const target of document.querySelectorAll(".js-plotly-plot")) {
    const change = { "font.color": font.color };
    for (const name of ["xaxis", "yaxis"])
      for (const key of ["gridcolor", "linecolor", "zerolinecolor"]) change[`${name}.${key}`] = axis[key];
    Plotly.relayout(target, change);
    if (target.classList.contains("confusion")) Plotly.restyle(target, { colorscale: [blues()] });
    else Plotly.restyle(target, { "error_y.color": font.color, "error_x.color": font.color });
  }
}

// Opaque, so that plotly knows what its numbers stand on and writes them light or dark.
const blues = () => [[0, style("--panel")], [0.5, "#5b9bd5"], [1, "#0b4f8a"]];

const short = (name) => (name.length > 14 ? name.slice(0, 13) + "…" : name);

function confusion(target, found) {
  const labels = found.columns.map((name, i) => `${i}`), rows = found.rows.map((name, i) => `${i}`);
  const trace = {
    type: "heatmap", x: labels, y: rows, z: found.shares, zmin: 0, zmax: 1, showscale: false, xgap: 1, ygap: 1,
    colorscale: blues(),
    text: found.shares.map((row) => row.map((share) => (share >= 0.05 ? Math.round(share * 100) : ""))),
    texttemplate: "%{text}", textfont: { size: 11 },
    customdata: found.rows.map((row) => found.columns.map((column) => [row, column])),
    hovertemplate: "%{customdata[0]} taken for %{customdata[1]}: %{z:.1%}<extra></extra>",
  };
  const layout = {
    height: 90 + 30 * rows.length + 60, margin: { l: 10, r: 8, t: 4, b: 10 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    xaxis: { showgrid: false, tickvals: labels, ticktext: found.columns.map(short), tickangle: -55, fixedrange: true, type: "category" },
    yaxis: { showgrid: false, tickvals: rows, ticktext: found.rows.map(short), autorange: "reversed", fixedrange: true, type: "category" },
  };
  return draw(target, { data: [trace], layout });
}

// A heat map in a closed element has no width: each is drawn when it is opened.
function opened(event) {
  for (const data of event.target.querySelectorAll("script.confusion-data")) {
    const target = data.previousElementSibling;
    if (!target.classList.contains("js-plotly-plot")) confusion(target, JSON.parse(data.textContent));
  }
}

function openLinked() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
}

async function table() {
  const bytes = Uint8Array.from(atob(document.getElementById("tables-bundle").textContent), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
  const { default: DataTable } = await import(url);
  URL.revokeObjectURL(url);
  new DataTable("#task-table", {
    paging: false, info: false, order: [], autoWidth: false,
    layout: { topStart: "search", topEnd: null, bottomStart: null, bottomEnd: null },
    language: { search: "", searchPlaceholder: "Filter tasks" },
    columnDefs: [{ targets: [-2, -1], columnControl: [["searchList"]] }],
  });
}

recolour();
for (const data of document.querySelectorAll("script.figure")) draw(data.dataset.target, JSON.parse(data.textContent));
for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", opened);
dark.addEventListener("change", recolour);
window.addEventListener("hashchange", openLinked);
await table();
openLinked();
document.documentElement.dataset.ready = "yes";
