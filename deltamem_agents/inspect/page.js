"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [layers, heads, rank] = data.shape;
const anchors = data.colours;
const memo = new Map();

function state(index) {            // float16 little-endian, base64 -> numbers
  if (memo.has(index)) return memo.get(index);
  const raw = atob(data.points[index].state), values = new Float32Array(raw.length / 2);
  for (let i = 0; i < values.length; i++) {
    const bits = raw.charCodeAt(2 * i) | (raw.charCodeAt(2 * i + 1) << 8);
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024;
    values[i] = bits & 32768 ? -size : size;
  }
  for (let i = 0; i < values.length; i++) values[i] *= data.points[index].scale;
  memo.set(index, values);
  return values;
}
function colour(value, top) {
  const place = (Math.max(-1, Math.min(1, value / top)) + 1) / 2 * (anchors.length - 1);
  const low = Math.min(Math.floor(place), anchors.length - 2), part = place - low;
  return anchors[low].map((c, i) => Math.round(c * (1 - part) + anchors[low + 1][i] * part));
}
function limit(values) {
  const sizes = Float32Array.from(values, Math.abs).sort();
  return sizes[Math.floor(0.995 * (sizes.length - 1))] || sizes[sizes.length - 1] || 1;
}
function map(values, layer, top, word) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  const wide = heads * (rank + 1) - 1, each = rank * rank, start = layer * heads * each;
  canvas.width = wide; canvas.height = rank;
  const context = canvas.getContext("2d"), image = context.createImageData(wide, rank);
  let square = 0;
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < rank; row++)
      for (let column = 0; column < rank; column++) {
        const value = values[start + head * each + row * rank + column];
        square += value * value;
        const at = 4 * (row * wide + head * (rank + 1) + column);
        image.data.set([...colour(value, top), 255], at);
      }
  context.putImageData(image, 0, 0);
  const caption = document.createElement("figcaption"), norm = Math.sqrt(square).toPrecision(3);
  caption.textContent = `layer ${layer}: ${norm}`;
  canvas.title = `layer ${layer}, ${word} ${norm}`;
  figure.append(caption, canvas);
  return figure;
}
function show() {
  const a = Number(document.getElementById("a").value), b = Number(document.getElementById("b").value);
  const before = state(a), after = state(b), change = after.map((value, i) => value - before[i]);
  const top = Math.max(limit(before), limit(after)), own = limit(change);
  const norm = Math.sqrt(change.reduce((sum, value) => sum + value * value, 0));
  document.getElementById("top").textContent = document.getElementById("top2").textContent = top.toPrecision(3);
  const tokens = data.points[b].tokens - data.points[a].tokens;
  document.getElementById("told").textContent =
    `The two are ${norm.toPrecision(3)} apart; ${tokens >= 0 ? "+" : ""}${tokens} tokens read. `
    + `Each layer's norm stands above it; the change has a scale of its own, to ±${own.toPrecision(3)}.`;
  const place = document.getElementById("maps");
  place.replaceChildren();
  for (const name of ["from", "to", "change"]) {
    const head = document.createElement("h3"); head.textContent = name; place.append(head);
  }
  for (let layer = 0; layer < layers; layer++)
    place.append(map(before, layer, top, "norm"), map(after, layer, top, "norm"), map(change, layer, own, "change"));
  document.querySelectorAll(".point").forEach((point) => {
    point.classList.toggle("a", Number(point.dataset.point) === a);
    point.classList.toggle("b", Number(point.dataset.point) === b);
  });
}
for (const [id, chosen] of [["a", data.from], ["b", data.to]]) {
  const select = document.getElementById(id);
  data.points.forEach((point, index) => select.add(new Option(point.label, index, false, index === chosen)));
  select.addEventListener("change", show);
}
document.querySelectorAll(".point").forEach((point) => point.addEventListener("click", (event) => {
  document.getElementById(event.shiftKey ? "a" : "b").value = point.dataset.point;
  show();
}));
show();
const course = document.getElementById("timeline");
course.scrollLeft = course.scrollWidth;  // narrow windows show the newest first
