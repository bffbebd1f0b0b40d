// Charts of the status page, drawn as SVG: tokens per second over the last minutes, and how latencies are spread.

import { h } from "./dom.js";
import { count } from "./numbers.js";
import { perSecond } from "./status_cards.js";

const SPACE = "http://www.w3.org/2000/svg";

function s(tag, attributes, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

// [{at: seconds before now, written, read}]
export function series(history) {
  const now = history.at(-1).time;
  return history.slice(1).map((figures, i) => ({
    at: now - figures.time,
    written: perSecond(figures, history[i], (one) => one.engine.generated_tokens) ?? 0,
    read: perSecond(figures, history[i], (one) => one.engine.prompt_tokens) ?? 0,
  }));
}

// Written and read have scales of their own: reading is tens of times as fast.
// width: pixels that there are, so that its words have the size of others.
export function throughputChart(points, width) {
  if (!points.length) return [h("p", { class: "none" }, "The first rate comes with the next look")];
  const height = 190;
  const wide = Math.max(280, width);
  const span = Math.max(60, points[0].at);
  const top = (name) => nice(Math.max(10, ...points.map((point) => point[name])));
  const most = { written: top("written"), read: top("read") };
  const x = (at) => 46 + (wide - 100) * (1 - at / span);
  const y = (value, top) => 12 + (height - 40) * (1 - value / top);
  const { written, read } = points.at(-1);
  const chart = s("svg", { class: "chart", viewBox: `0 0 ${wide} ${height}`, role: "img",
    "aria-label": `Written ${count(written)} and read ${count(read)} tokens per second now` });
  for (const share of [0, 0.5, 1]) {
    const line = y(share, 1);
    chart.append(s("path", { class: "grid", d: `M46 ${line}H${wide - 54}` }),
      s("text", { x: 40, y: line + 4, "text-anchor": "end" }, count(share * most.written)),
      s("text", { x: wide - 48, y: line + 4 }, count(share * most.read)));
  }
  for (const [part, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]])
    chart.append(s("text", { x: x(part * span), y: height - 6, "text-anchor": anchor },
      part ? `${Math.round(part * span)} s ago` : "now"));
  const line = (name) => points.map((point, i) =>
    `${i ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point[name], most[name]).toFixed(1)}`).join("");
  chart.append(s("path", { class: "b line", d: line("read") }), s("path", { class: "a line", d: line("written") }));
  return [chart, h("p", { class: "legend" }, h("span", { class: "a" }, h("i"), "written (left scale)"),
    h("span", { class: "b" }, h("i"), "read (right scale)"))];
}

// The least of 1, 2, 5 times a power of ten that is no smaller.
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// Where a share of all falls, taken evenly within its bucket, as Prometheus does it. null: beyond the last bound.
export function quantile({ bounds, counts }, share) {
  const wanted = share * counts.reduce((a, b) => a + b, 0);
  let below = 0;
  for (let i = 0; i < counts.length; i += 1) {
    if (below + counts[i] >= wanted && counts[i]) {
      const from = i ? bounds[i - 1] : 0;
      return bounds[i] === null ? null : from + (bounds[i] - from) * (wanted - below) / counts[i];
    }
    below += counts[i];
  }
  return null;
}

export function histogramCard(histogram, written) {
  const { bounds, counts, sum } = histogram;
  const all = counts.reduce((a, b) => a + b, 0);
  if (!all) return [h("p", { class: "none" }, "Nothing was measured yet")];
  const word = (share) => {
    const value = quantile(histogram, share);
    return value === null ? `over ${written(bounds.at(-2))}` : written(value);
  };
  const named = [["half within", word(0.5)], ["90 %", word(0.9)], ["99 %", word(0.99)], ["mean", written(sum / all)]];
  const numbers = h("p", { class: "numbers" },
    named.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value))),
    h("span", {}, `${count(all)} measured`));
  const first = Math.max(0, counts.findIndex((n) => n) - 1);
  const last = Math.min(counts.length - 1, counts.findLastIndex((n) => n) + 1);
  const shownCounts = counts.slice(first, last + 1);
  const most = Math.max(...shownCounts);
  const width = 420;
  const step = width / shownCounts.length;
  const chart = s("svg", { class: "chart", viewBox: `0 0 ${width} 120`, role: "img",
    "aria-label": `Half within ${word(0.5)}, 99 % within ${word(0.99)}` });
  chart.append(s("path", { class: "grid", d: `M0 96H${width}` }));
  const every = Math.ceil(shownCounts.length / 7);
  shownCounts.forEach((value, i) => {
    const tall = 90 * value / most;
    const bound = bounds[first + i];
    const bar = s("rect", { class: "bar", x: i * step + 1, width: step - 2, y: 96 - tall, height: tall, rx: 2 });
    bar.append(s("title", {}, `${count(value)} ${bound === null ? "longer" : `up to ${written(bound)}`}`));
    chart.append(bar);
    const anchor = i === shownCounts.length - 1 ? "end" : "middle";
    if (bound !== null && i % every === 0)
      chart.append(s("text", { x: (i + 1) * step, y: 114, "text-anchor": anchor }, written(bound)));
  });
  return [numbers, chart];
}
