// A message being changed: the text stays where it stood, and Esc leaves it as it was.

import { h } from "./dom.js";

// done(text), or done(null) when it stays
export function editor(message, done) {
  const isAnswer = message.role === "assistant";
  const field = h("textarea", { "aria-label": "Text of the message", value: message.text });
  const grow = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  };
  const submit = () => {
    const text = field.value.trim();
    done(text === message.text.trim() && isAnswer ? null : text || null);
  };
  field.addEventListener("input", grow);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); done(null); }
    if (event.key === "Enter" && !event.isComposing && (isAnswer ? event.ctrlKey || event.metaKey : !event.shiftKey)) {
      event.preventDefault();
      submit();
    }
  });
  requestAnimationFrame(grow);
  const hint = isAnswer ? "Changes what the model is taken to have said" : "Asks again, as a new version";
  return h("div", { class: "editor" }, field, h("div", { class: "row" },
    h("span", { class: "hint" }, hint),
    h("button", { type: "button", class: "plain", onclick: () => done(null) }, "Cancel"),
    h("button", { type: "button", class: "strong", onclick: submit }, isAnswer ? "Save" : "Send")));
}
