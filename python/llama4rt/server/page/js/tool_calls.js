// What the model calls, and where a person says what the calls gave.

import { chat } from "./chat.js";
import { h } from "./dom.js";

// isOpen: the results are wanted now
export function callView(message, isOpen) {
  const fields = [];
  const cards = message.calls.map((call, i) => {
    const card = h("div", { class: "call" },
      h("div", { class: "call-name" }, "calls ", h("code", {}, call.name)),
      h("pre", { tabindex: "0", "aria-label": `Arguments of ${call.name}` }, pretty(call.arguments)));
    if (isOpen) {
      const field = h("textarea", { rows: "2", "aria-label": `Result of ${call.name}, call ${i + 1}`,
        placeholder: "What it gave: JSON or text" });
      fields.push(field);
      card.append(field);
    }
    return card;
  });
  if (!isOpen) return h("div", {}, cards);
  const form = h("form", { "aria-label": "Results of the calls" }, cards,
    h("div", { class: "row" }, h("button", { type: "submit", class: "strong" }, "Send results")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    chat.giveResults(message, fields.map((field) => field.value.trim() || "null"));
  });
  return form;
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; } // it may still be coming
}
