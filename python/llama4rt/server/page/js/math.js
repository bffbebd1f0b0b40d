// Formulas: $...$, $$...$$, \(...\), \[...\]. KaTeX comes with the first of them; until then its source stands there.

import { h } from "./dom.js";

const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n+|$)/;
// As in Pandoc: no space within the dollars, no digit behind them, so that sums of money stay money.
const DOLLARS = /\$((?!\s)(?:\\[\s\S]|[^$\\\n])+?)(?<!\s)\$(?![\d$])/;
const INLINE = new RegExp(
  String.raw`^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|${DOLLARS.source})`);

const asText = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const span = (token) => `<span class="formula${token.isDisplay ? " display" : ""}">${asText(token.text)}</span>`;

export const formulas = [
  {
    name: "formulaBlock",
    level: "block",
    start: (source) => source.match(/(?:^|\n) {0,3}(?:\$\$|\\\[)/)?.index,
    tokenizer(source) {
      const found = BLOCK.exec(source);
      if (found) return { type: "formulaBlock", raw: found[0], text: (found[1] ?? found[2]).trim(), isDisplay: true };
    },
    renderer: (token) => `<p>${span(token)}</p>\n`,
  },
  {
    name: "formula",
    level: "inline",
    start: (source) => source.match(/\$|\\\(|\\\[/)?.index,
    tokenizer(source) {
      const found = INLINE.exec(source);
      if (!found) return undefined;
      const text = found[1] ?? found[2] ?? found[3] ?? found[4];
      return { type: "formula", raw: found[0], text: text.trim(), isDisplay: (found[1] ?? found[2]) !== undefined };
    },
    renderer: span,
  },
];

let loading = null;

function katex() {
  loading ??= (async () => {
    const sheet = h("link", { rel: "stylesheet", href: new URL("../vendor/katex/katex.css", import.meta.url).href });
    const styled = new Promise((done) => { sheet.onload = sheet.onerror = done; });
    document.head.append(sheet);
    await Promise.all([import("../vendor/katex/katex.js"), styled]);
    return globalThis.katex;
  })();
  return loading;
}

export async function drawFormulas(element) {
  const found = [...element.querySelectorAll("span.formula")];
  if (!found.length) return;
  const { render } = await katex();
  for (const place of found) {
    const source = place.textContent;
    const displayMode = place.classList.contains("display");
    try {
      // trust: false, no link and no class of the source's own; sizes and macros are bounded.
      render(source, place, { displayMode, trust: false, maxSize: 20, maxExpand: 200, strict: "ignore" });
      if (displayMode) place.tabIndex = 0; // a wide one is scrolled
    } catch { // not a formula, or not one that KaTeX knows
      place.textContent = source;
      place.classList.add("unread");
    }
  }
}
