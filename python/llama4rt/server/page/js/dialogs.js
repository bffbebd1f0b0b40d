// Dialogs: opened once, closed by Esc, by their button or by a click beside them; the focus goes back where it was.

import { h, iconButton } from "./dom.js";

// children: of the dialog's body. onclose(): however it was closed.
export function openDialog(title, children, { onclose, kind = "" } = {}) {
  const dialog = h("dialog", { class: kind, "aria-labelledby": "dialog-title" },
    h("div", { class: "dialog-head" }, h("h2", { id: "dialog-title" }, title),
      iconButton("close", "Close", () => dialog.close())),
    h("div", { class: "dialog-body" }, children));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { dialog.remove(); onclose?.(); });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// true: do it
export function confirmed(title, text, action) {
  return new Promise((done) => {
    let answer = false;
    const dialog = openDialog(title, [
      h("p", {}, text),
      h("div", { class: "row end" },
        h("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "button", class: "strong", onclick: () => { answer = true; dialog.close(); } }, action)),
    ], { onclose: () => done(answer), kind: "small" });
  });
}

export function field(label, input, hint = "") {
  return h("label", { class: "field" }, h("span", {}, label), input, hint ? h("small", {}, hint) : null);
}
