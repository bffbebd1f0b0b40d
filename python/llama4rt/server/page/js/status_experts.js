// How the router spreads tokens over experts, as a heat map: a row for each layer, a column for each expert. A cell
// shows its share beside an even spread, which is what matters: an expert with five times its share makes a step wait.

import { h } from "./dom.js";
import { count } from "./numbers.js";

const MOST = 3; // times an even share: as hot as it gets

export function showExperts(card, load) {
  const [title, ...old] = card.children;
  const layers = load.map((counts, layer) => ({ layer, counts, all: counts.reduce((a, b) => a + b, 0) }))
    .filter(({ counts }) => counts.length > 1);
  const isCounted = layers.some(({ all }) => all);
  if (!isCounted) {
    for (const element of old) element.remove();
    card.append(h("p", { class: "none" }, layers.length ? "No token has passed yet"
      : "This engine does not count them (on a GPU a step would have to wait for the numbers)"));
    return;
  }
  const hottest = layers.flatMap(({ layer, counts, all }) =>
    counts.map((tokens, expert) => ({ layer, expert, times: all ? tokens * counts.length / all : 0 })))
    .reduce((a, b) => (b.times > a.times ? b : a));
  const words = `The busiest is expert ${hottest.expert} of layer ${hottest.layer}, `
    + `with ${hottest.times.toFixed(2)} times an even share`;
  const canvas = drawn(layers, words);
  const ramp = h("canvas", { class: "ramp", width: 60, height: 1, "aria-hidden": "true" });
  const painter = ramp.getContext("2d");
  for (let i = 0; i < 60; i += 1) { painter.fillStyle = colour(MOST * i / 59); painter.fillRect(i, 0, 1, 1); }
  const place = h("p", { class: "none", "aria-hidden": "true" }, "\u00a0");
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = layers[Math.floor((event.clientY - box.top) / box.height * layers.length)];
    const expert = Math.floor((event.clientX - box.left) / box.width * (row?.counts.length ?? 0));
    const tokens = row?.counts[expert];
    if (tokens !== undefined)
      place.textContent = `layer ${row.layer}, expert ${expert}: ${count(tokens)} of ${count(row.all)} tokens`;
  });
  const held = card.querySelector(".none")?.textContent;
  if (held && old.length > 1) place.textContent = held; // what the pointer stands on
  for (const element of old) element.remove();
  card.append(h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": "Experts" }, canvas),
    h("div", { class: "scale" }, h("span", {}, "none"), ramp, h("span", {}, `${MOST} times an even share, or more`)),
    place, h("p", { class: "quiet" }, words));
  const most = Math.max(...layers.map(({ counts }) => counts.length));
  title.textContent = `Load of the experts: ${layers.length} layers of ${most}`;
}

function drawn(layers, words) {
  const columns = Math.max(...layers.map(({ counts }) => counts.length));
  const cell = Math.max(4, Math.min(56, Math.floor(1100 / columns)));
  const tall = Math.min(cell, columns < 32 ? 28 : 14);
  const size = { width: columns * cell, height: layers.length * tall };
  const canvas = h("canvas", { ...size, role: "img", "aria-label": words });
  const painter = canvas.getContext("2d");
  layers.forEach(({ counts, all }, row) => counts.forEach((tokens, expert) => {
    painter.fillStyle = colour(all ? tokens * counts.length / all : 0);
    painter.fillRect(expert * cell, row * tall, cell - (cell > 8 ? 1 : 0), tall - (cell > 8 ? 1 : 0));
  }));
  return canvas;
}

// From blue (idle) over pale (even) to rust (hot), each half even in lightness.
function colour(times) {
  const share = Math.min(times, MOST);
  const mix = (a, b, t) => a.map((v, i) => Math.round(v + (b[i] - v) * t));
  const [blue, pale, rust] = [[58, 92, 168], [238, 228, 208], [160, 50, 20]];
  const rgb = share < 1 ? mix(blue, pale, share) : mix(pale, rust, (share - 1) / (MOST - 1));
  return `rgb(${rgb.join(" ")})`;
}
