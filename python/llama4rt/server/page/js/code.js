// Code in answers: its language, a button that copies it, and colours where highlight.js knows the language. That comes
// with the first code, and an unfinished block has no colours yet.

import { announce } from "./announce.js";
import { copyText, h } from "./dom.js";
import { icon } from "./icons.js";

const MOST_CHARACTERS = 60_000; // colouring more takes longer than a frame

let loading = null;
const highlighter = () => (loading ??= import("../vendor/highlight/highlight.js"));

export function dressCode(element, isFinal) {
  for (const code of element.querySelectorAll("pre > code")) {
    const language = /(?:^| )language-(\S+)/.exec(code.className)?.[1] ?? "";
    const pre = code.parentElement;
    pre.tabIndex = 0;
    pre.setAttribute("aria-label", language ? `Code in ${language}` : "Code");
    const frame = h("div", { class: "code" });
    pre.replaceWith(frame);
    frame.append(h("div", { class: "code-head" }, h("span", {}, language || "text"), copyButton(code)), pre);
    if (isFinal && language) colour(code, language);
  }
}

function copyButton(code) {
  const button = h("button", { type: "button", class: "copy-code" }, icon("copy"), h("span", {}, "Copy"));
  button.addEventListener("click", async () => {
    await copyText(code.textContent.replace(/\n$/, ""));
    button.replaceChildren(icon("check"), h("span", {}, "Copied"));
    announce("Code copied");
    setTimeout(() => button.replaceChildren(icon("copy"), h("span", {}, "Copy")), 1500);
  });
  return button;
}

async function colour(code, language) {
  const source = code.textContent;
  if (source.length > MOST_CHARACTERS) return;
  const { default: highlight } = await highlighter();
  if (!highlight.getLanguage(language)) return;
  const { _emitter: emitter } = highlight.highlight(source, { language, ignoreIllegals: true });
  code.replaceChildren(...emitter.rootNode.children.map(coloured));
}

// highlight.js's own tree: texts, and scopes with children. No HTML is written and read again.
function coloured(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const children = node.children.map(coloured);
  if (!node.scope || node.language) return h("span", {}, children);
  const [first, ...rest] = node.scope.split(".");
  return h("span", { class: [`hl-${first}`, ...rest.map((name) => `hl-${name}_`)].join(" ") }, children);
}
