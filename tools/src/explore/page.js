// Sliders, table and drawing. The address's part after # holds the choice: model, tp, seq, link, network.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.hash.slice(1));
const number = (name, otherwise) => {
  const value = Number(asked.get(name));
  return value > 0 && Number.isFinite(value) ? value : otherwise;
};

/** A slider over these values: `first` is among them, and chosen. */
function choice(id, values, first) {
  const all = [...new Set([...values, first])];
  if (typeof first === "number") all.sort((a, b) => a - b);
  by(id).max = all.length - 1;
  by(id).value = all.indexOf(first);
  by(id).addEventListener("input", draw);
  return () => all[Number(by(id).value)];
}

const names = data.models.map((model) => model.name);
const times = (rate) => [0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 4].map((factor) => factor * rate);
const chosen = {
  model: choice("model", names, names.includes(asked.get("model")) ? asked.get("model") : data.model),
  seq: choice("seq", Array.from({ length: 11 }, (_, i) => 128 * 2 ** i), Math.min(Math.ceil(number("seq", data.seq)), 2 ** 20)),
  link: choice("link", times(data.node.link_gb_per_s), number("link", data.node.link_gb_per_s)),
  network: choice("network", times(data.node.network_gb_per_s), number("network", data.node.network_gb_per_s)),
};
const degrees = [1, 2, 4, 8, 16, 32].filter((tp) => tp <= data.max_tp);
chosen.tp = choice("tp", degrees, degrees.includes(number("tp", 8)) ? number("tp", 8) : degrees[degrees.length - 1]);

const COLUMNS = [
  ["TP", (row) => row.tp],
  ["nodes", (row) => row.nodes],
  ["weights, GB", (row) => row.weights_gb.toFixed(2) + (row.fits ? "" : " *")],
  ["activations, GB", (row) => row.activations_gb.toFixed(2)],
  ["with SP, GB", (row) => row.activations_sp_gb.toFixed(2)],
  ["KV cache, GB", (row) => row.kv_cache_gb.toFixed(2)],
  ["sent, MB/layer", (row) => (row.comm_bytes_per_layer / 1e6).toFixed(1)],
  ["unfused, ms/layer", (row) => row.unfused_ms.toFixed(3)],
  ["fused, ms/layer", (row) => row.fused_ms.toFixed(3)],
  ["efficiency unfused", (row) => (100 * row.efficiency_unfused).toFixed(0) + " %"],
  ["fused", (row) => (100 * row.efficiency_fused).toFixed(0) + " %"],
  ["token, times faster", (row) => row.latency_reduction_unfused.toFixed(2)],
  ["fused", (row) => row.latency_reduction_fused.toFixed(2)],
];

function cell(tag, words) {
  const made = document.createElement(tag);
  made.textContent = words;
  return made;
}

function table(rows, tp) {
  const head = document.createElement("tr");
  head.append(...COLUMNS.map(([name]) => cell("th", name)));
  const body = rows.map((row) => {
    const line = document.createElement("tr");
    line.className = row.tp === tp ? "chosen" : "";
    line.append(...COLUMNS.map(([, of]) => cell("td", of(row))));
    return line;
  });
  by("table").replaceChildren(head, ...body);
}

function shape(name, attributes, words) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (words !== undefined) made.textContent = words;
  return made;
}

function drawing(rows, tp) {
  const most = Math.max(1, ...rows.flatMap((row) => [row.efficiency_unfused, row.efficiency_fused]));
  const x = (i) => 50 + (560 * i) / Math.max(rows.length - 1, 1);
  const y = (value) => 210 - (190 * value) / most;
  const parts = [];
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(shape("line", { x1: 50, x2: 610, y1: y(value), y2: y(value), stroke: "#ddd" }));
    parts.push(shape("text", { x: 44, y: y(value) + 4, "text-anchor": "end" }, 100 * value + " %"));
  }
  rows.forEach((row, i) => {
    if (row.tp === tp) parts.push(shape("line", { x1: x(i), x2: x(i), y1: 20, y2: 210, stroke: "#999" }));
    parts.push(shape("text", { x: x(i), y: 228, "text-anchor": "middle" }, "TP " + row.tp));
  });
  for (const [field, colour, words, at] of [
    ["efficiency_unfused", "#d55e00", "unfused", 420],
    ["efficiency_fused", "#0072b2", "fused", 520],
  ]) {
    const points = rows.map((row, i) => x(i) + "," + y(row[field])).join(" ");
    parts.push(shape("polyline", { points, fill: "none", stroke: colour, "stroke-width": 2 }));
    parts.push(shape("text", { x: at, y: 14, fill: colour }, words));
  }
  by("drawing").replaceChildren(...parts);
}

function draw() {
  const model = data.models.find((model) => model.name === chosen.model());
  const at = { seq: chosen.seq(), batch: data.batch, link: chosen.link(), network: chosen.network() };
  const rows = explore(data, model, at);
  const row = rows.find((row) => row.tp === chosen.tp()) || rows[rows.length - 1];
  by("model-is").textContent = model.label;
  by("tp-is").textContent = row.tp;
  by("seq-is").textContent = at.seq + " tokens";
  by("link-is").textContent = at.link + " GB/s a direction";
  by("network-is").textContent = at.network + " GB/s a direction, each GPU";
  const gain = (100 * (row.speedup - 1)).toFixed(0);
  by("words").textContent =
    `${model.label} at TP ${row.tp}: ${row.weights_gb.toFixed(2)} GB of weights a GPU` +
    (row.fits ? "" : `, which with the KV cache is more than its ${data.node.hbm_gb} GB`) +
    `; ${(100 * row.efficiency_unfused).toFixed(0)} % of a lone GPU's throughput unfused, ` +
    `${(100 * row.efficiency_fused).toFixed(0)} % fused (${gain} % faster)` +
    (row.nodes > 1 ? `; over ${row.nodes} nodes, where nothing is fused.` : ".");
  table(rows, row.tp);
  drawing(rows, row.tp);
  const all = { model: model.name, node: data.node.name, ...at, kind: "predicted", rows };
  by("json").textContent = JSON.stringify(all);
}

draw();
