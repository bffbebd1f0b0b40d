// What a screen reader should say now, and short words on the screen for what failed.

import { $, h } from "./dom.js";

// Said once, when it is done: a reader that is told of every token says nothing useful.
export function announce(text) {
  $("live").textContent = "";
  requestAnimationFrame(() => { $("live").textContent = text; });
}

export function toast(text, action = null) {
  const note = h("div", { class: "toast" }, h("span", {}, text));
  const close = () => note.remove();
  if (action) note.append(h("button", { type: "button", onclick: () => { close(); action.call(); } }, action.name));
  $("toasts").append(note);
  setTimeout(close, action ? 10_000 : 5_000);
}
