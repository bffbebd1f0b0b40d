// The numbers of the status page: tiles, and cards with rows.

import { h } from "./dom.js";
import { count } from "./numbers.js";

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) { value /= 1024; power += 1; }
  return `${power && value < 99.95 ? value.toFixed(1) : count(value)} ${units[power]}`;
}

// Of a counter, per second between two looks; null: there is only one.
export function perSecond(now, before, read) {
  const passed = before ? now.time - before.time : 0;
  return passed > 0 ? Math.max(0, read(now) - read(before)) / passed : null;
}

const shown = (value) => (value === null ? "–" : value < 99.5 && value > 0 ? value.toFixed(1) : count(value));

export function tiles(figures, before) {
  const { engine } = figures;
  const written = perSecond(figures, before, (one) => one.engine.generated_tokens);
  const read = perSecond(figures, before, (one) => one.engine.prompt_tokens);
  const asked = engine.prefix_query_tokens;
  return [
    tile("running", engine.running, `of ${count(figures.max_num_seqs)} at once`),
    tile("waiting", engine.waiting, `of ${count(figures.max_waiting)} at most`),
    tile("tokens/s written", shown(written), `${count(engine.generated_tokens)} in all`),
    tile("tokens/s read", shown(read), `${count(engine.prompt_tokens)} in all`),
    tile("of prompts found in the cache", asked ? percent(engine.prefix_hit_tokens / asked) : "–",
      `${count(engine.prefix_hit_tokens)} of ${count(asked)} tokens`),
    tile("interrupted for others", count(engine.preemptions), "outputs, computed again"),
  ];
}

function tile(name, value, more) {
  return h("div", { class: "tile" }, h("span", { class: "value" }, String(value)), h("span", { class: "name" }, name),
    h("span", { class: "more" }, more));
}

const rows = (pairs) =>
  h("dl", { class: "rows" }, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

// Each group of layers has blocks of its own: in use, free but with a prefix that may be found again, free.
export function cacheCard({ engine }) {
  return Object.entries(engine.blocks).flatMap(([name, group]) => {
    const share = (blocks) => (group.total ? blocks / group.total : 0);
    const meter = h("div", { class: "meter", role: "img",
      "aria-label": `${name} layers: ${percent(share(group.used))} in use, ${percent(share(group.cached))} kept` },
    part(share(group.used), ""), part(share(group.cached), "kept"));
    return [rows([[`${name} layers`, `${percent(share(group.used))} in use`]]), meter,
      rows([["blocks in use, kept, all", [group.used, group.cached, group.total].map(count).join(" / ")],
        ["memory", bytes(group.bytes)]])];
  }).concat(h("p", { class: "legend" }, `A block holds ${engine.block_size} tokens; kept ones may be found again`));
}

function part(share, kind) {
  const element = h("span", { class: kind });
  element.style.width = `${100 * share}%`;
  return element;
}

export function requestsCard({ counters, engine }) {
  const named = (by, name) => Object.entries(by).map(([label, value]) => [`${name} ${label}`.trim(), count(value)]);
  return [rows([
    ...named(counters.finished, "ended:"),
    ...named(counters.refused, "refused, status"),
    ...named(counters.disconnected, "clients that left"),
    ...named(counters.slow_readers, "ended: did not read"),
    ...named(counters.paused, "paused: read slowly"),
    ["tiles of pictures encoded", count(engine.images.encoded_tiles)],
    ["pictures that were at hand", count(engine.images.reused)],
  ])];
}

export function memoryCard(parts, written) {
  const all = Object.values(parts).reduce((a, b) => a + b, 0);
  const list = Object.entries(parts).sort(([, a], [, b]) => b - a)
    .map(([name, value]) => [name.replaceAll("_", " "), written(value)]);
  return [rows([...list, ["together", written(all)]])];
}
