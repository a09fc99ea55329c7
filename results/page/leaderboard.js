// The leaderboard's filters act on its table and on its chart alike.
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const field = (id) => document.getElementById(id);
const parsed = (id) => JSON.parse(field(id).textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
document.documentElement.classList.toggle("dark", dark.matches);

function themed(layout) {
  const axis = { gridcolor: style("--rule"), linecolor: style("--rule"), zerolinecolor: style("--rule"), automargin: true };
  const font = { color: style("--ink"), family: style("--font"), size: 13 };
  return { ...layout, font, autosize: true, xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis } };
}

function passes(row) {
  if (row.classList.contains("mine")) return true;
  const { params, gflops, data, date } = row.dataset;
  const most = (value, limit) => limit === "" || (value !== "" && Number(value) <= Number(limit));
  return most(params, field("max-params").value) && most(gflops, field("max-gflops").value)
    && (field("data").value === "" || data === field("data").value) && (field("since").value === "" || date >= field("since").value);
}

const figure = parsed("compute-data");
const options = { responsive: true, displayModeBar: false, displaylogo: false };

function chart(names) {
  const kept = figure.data.map((trace) => {
    if (!trace.text) return trace;
    const at = trace.text.map((name, i) => i).filter((i) => names.has(trace.text[i]));
    return { ...trace, x: at.map((i) => trace.x[i]), y: at.map((i) => trace.y[i]), text: at.map((i) => trace.text[i]) };
  });
  Plotly.react("chart-compute", kept, themed(figure.layout), options);
}

function correlation() {
  if (!field("correlation-data")) return;
  const { names, values } = parsed("correlation-data");
  const labels = names.map((name, i) => `${i}`);
  const trace = {
    type: "heatmap", x: labels, y: labels, z: values, zmin: -1, zmax: 1,
    colorscale: [[0, "#b2182b"], [0.5, style("--panel")], [1, "#0b4f8a"]], colorbar: { thickness: 10 },
    customdata: names.map((row) => names.map((column) => [row, column])),
    hovertemplate: "%{customdata[0]} and %{customdata[1]}: %{z:.2f}<extra></extra>",
  };
  const ticks = { tickvals: labels, ticktext: names, type: "category", showgrid: false };
  Plotly.newPlot("chart-correlation", [trace], themed({
    height: 160 + 16 * names.length, margin: { l: 10, r: 8, t: 4, b: 10 }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, xaxis: { ...ticks, tickangle: -60 }, yaxis: { ...ticks, autorange: "reversed" },
  }), options);
}

async function table() {
  const { default: DataTable } = await library("tables-bundle");
  const shown = new DataTable("#models-table", {
    pageLength: 25, order: [[3, "desc"]], autoWidth: false, search: { return: false },
    layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
    language: { search: "", searchPlaceholder: "Filter models" },
  });
  shown.search.fixed("filters", (text, data, index) => passes(shown.row(index).node()));
  const apply = () => {
    shown.draw();
    const nodes = shown.rows({ search: "applied" }).nodes().toArray();
    chart(new Set(nodes.map((row) => row.dataset.name)));
    field("count").textContent = `${nodes.length} of ${shown.rows().count()} models`;
  };
  for (const id of ["max-params", "max-gflops", "data", "since"]) field(id).addEventListener("input", apply);
  apply();
}

await library("plotly-bundle"); // It makes itself known as window.Plotly.
await table();
correlation();
document.documentElement.dataset.ready = "yes";
