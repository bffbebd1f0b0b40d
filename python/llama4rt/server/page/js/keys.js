// The keyboard, and the dialog that shows it.

import { announce } from "./announce.js";
import { chat } from "./chat.js";
import { openDialog } from "./dialogs.js";
import { $, copyText, h } from "./dom.js";
import { close, search, toggle } from "./sidebar.js";
import { lastView, step } from "./transcript.js";

const isMac = /mac|iphone|ipad/i.test(navigator.userAgentData?.platform ?? navigator.platform);
const MAIN = isMac ? "⌘" : "Ctrl";

const SHOWN = [
  [["Enter"], "Send"],
  [["Shift", "Enter"], "New line"],
  [["Esc"], "Stop the answer; leave a dialog or a change"],
  [["↑"], "In an empty message: change the last one"],
  [["Alt", "↑"], "The message before"],
  [["Alt", "↓"], "The message after"],
  [[MAIN, "K"], "Search chats"],
  [[MAIN, "Shift", "O"], "New chat"],
  [[MAIN, "B"], "Show or hide the chats"],
  [[MAIN, "Shift", "Y"], "Copy the last answer"],
  [["/"], "To the message box"],
  [["?"], "This list"],
];

export function openKeys() {
  if (document.querySelector("dialog")) return;
  openDialog("Keyboard", h("dl", { class: "keys" }, SHOWN.flatMap(([keys, what]) => [
    h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, what)])));
}

export function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog")) return;
    if (onMain(event) || onAlt(event) || onPlain(event)) event.preventDefault();
  });
}

function onMain({ ctrlKey, metaKey, shiftKey, key }) {
  if (!ctrlKey && !metaKey) return false;
  const name = key.toLowerCase();
  if (name === "k" && !shiftKey) search();
  else if (name === "b" && !shiftKey) toggle();
  else if (name === "o" && shiftKey) { chat.fresh(); close(); $("text").focus(); }
  else if (name === "y" && shiftKey) copyLast();
  else return false;
  return true;
}

function onAlt({ altKey, key }) {
  const direction = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (!altKey || !direction) return false;
  step(direction);
  return true;
}

function onPlain({ key, target, ctrlKey, metaKey, altKey }) {
  if (ctrlKey || metaKey || altKey) return false;
  if (key === "Escape") {
    if (chat.answer) chat.stop();
    else if (target.closest("#sidebar")) { close(); $("text").focus(); }
    else return false;
    return true;
  }
  if (target.closest("input, textarea, select")) return false;
  if (key === "/") $("text").focus();
  else if (key === "?") openKeys();
  else return false;
  return true;
}

async function copyLast() {
  const view = lastView("assistant");
  if (!view?.message.text) return;
  await copyText(view.message.text);
  announce("Copied the last answer");
}
