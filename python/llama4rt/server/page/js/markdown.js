// Markdown to elements: marked reads, DOMPurify keeps what is harmless, formulas and code are drawn afterwards. Loaded
// with the first answer. An answer is drawn block by block, so that a long one costs what its last block costs.

import { Marked } from "../vendor/marked/marked.js";
import "../vendor/dompurify/purify.js"; // sets globalThis.DOMPurify
import { dressCode } from "./code.js";
import { h } from "./dom.js";
import { drawFormulas, formulas } from "./math.js";

const TAGS = ("a abbr b blockquote br caption cite code dd del details dl dt em h3 h4 h5 h6 hr i ins kbd li mark ol p "
  + "pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u ul var").split(" ");
const ATTRIBUTES = ["href", "title", "class", "start", "align", "colspan", "rowspan", "open"];
const CLASSES = /^(?:language-[\w+#.-]{1,30}|formula|formula display)$/; // no other: the page's own mean something

const purifier = globalThis.DOMPurify;
purifier.addHook("uponSanitizeAttribute", (_, data) => {
  if (data.attrName === "class" && !CLASSES.test(data.attrValue)) data.keepAttr = false;
});

// Tags that models write within Markdown, as long as they are bare. All others stay the text that they are: who asks
// about <script> wants to read it.
const BARE = /&#60;(\/?)(b|br|del|details|em|hr|i|ins|kbd|mark|q|s|small|strong|sub|summary|sup|u)\s*\/?&#62;/gi;

const marked = new Marked({
  gfm: true,
  breaks: false,
  extensions: formulas,
  renderer: {
    // Below the two levels of the page itself.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    // A picture from elsewhere would tell its server who reads this: it stays a link.
    image({ href, text }) { return `<a href="${escaped(href)}">${escaped(text || href)}</a>`; },
    html({ text }) { return escaped(text).replace(BARE, "<$1$2>"); },
    checkbox({ checked }) { return checked ? "☑ " : "☐ "; },
  },
});

export const escaped = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

export function sanitised(html) {
  return purifier.sanitize(html, {
    ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
    ADD_URI_SAFE_ATTR: ["start", "align", "colspan", "rowspan", "open"],
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i, RETURN_DOM_FRAGMENT: true,
  });
}

export class Markdown {
  constructor(body) {
    this.body = body;
    this.blocks = []; // {raw, isFinal, element}
  }

  update(text, isFinal) {
    const tokens = marked.lexer(text);
    const shown = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (same < this.blocks.length && same < shown.length && this.blocks[same].raw === shown[same].raw
      && (this.blocks[same].isFinal || !(isFinal || same < shown.length - 1))) same += 1;
    for (const block of this.blocks.splice(same)) block.element.remove();
    for (const token of shown.slice(same)) {
      const isDone = isFinal || token !== shown.at(-1);
      const element = drawn(token, tokens.links, isDone);
      this.body.append(element);
      this.blocks.push({ raw: token.raw, isFinal: isDone, element });
    }
    this.body.classList.toggle("empty", !shown.length);
  }
}

function drawn(token, links, isFinal) {
  const list = Object.assign([token], { links });
  const element = h("div", { class: "block" });
  element.append(sanitised(marked.parser(list)));
  for (const link of element.querySelectorAll("a[href]"))
    if (!link.getAttribute("href").startsWith("#")) {
      link.target = "_blank";
      link.rel = "noopener noreferrer nofollow";
    }
  for (const table of element.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  dressCode(element, isFinal);
  drawFormulas(element);
  return element;
}
