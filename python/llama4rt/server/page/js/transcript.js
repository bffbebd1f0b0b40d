// The shown branch of a conversation, as a list of messages that is changed where something changed.

import { $, h } from "./dom.js";
import { chat } from "./chat.js";
import { MessageView } from "./message.js";

const NEAR_END = 90; // pixels from which the view follows the text

const SAMPLES = ["What can you do?", "What is 47 + 38?", "Tell a short story about an owl."];

let views = new Map(); // a message's id -> its view
let ofConversation = null;
let onSample = () => {};

export function startTranscript(sample) {
  onSample = sample;
  chat.listen((kind, detail) => {
    if (kind === "shown") show(detail);
    if (kind === "message") changed(detail);
    if (kind === "running") for (const view of views.values()) view.update();
  });
  $("scroll").addEventListener("scroll", showEnd, { passive: true });
  $("to-end").addEventListener("click", () => toEnd(true));
  show();
}

export const isAtEnd = () => {
  const s = $("scroll");
  return s.scrollHeight - s.scrollTop - s.clientHeight < NEAR_END;
};

export function toEnd(isSmooth = false) {
  const s = $("scroll");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  s.scrollTo({ top: s.scrollHeight, behavior: isSmooth && !calm ? "smooth" : "instant" });
  showEnd();
}

function showEnd() { $("to-end").hidden = isAtEnd(); }

function show({ keepPlace = false } = {}) {
  if (ofConversation !== chat.shown) {
    views = new Map();
    ofConversation = chat.shown;
  }
  const messages = chat.path;
  const kept = new Map();
  for (const message of messages) kept.set(message.id, views.get(message.id) ?? new MessageView(message, followed));
  views = kept;
  const nodes = messages.length ? [...views.values()].map((view) => view.element) : [welcome()];
  $("talk").replaceChildren(...nodes);
  for (const view of views.values()) view.update();
  if (!keepPlace) toEnd();
  showEnd();
}

function changed(message) {
  views.get(message.id)?.update();
}

// Draws, and keeps the end in sight where it was.
function followed(draw) {
  const stay = isAtEnd();
  draw();
  if (stay) toEnd();
  else showEnd();
}

function welcome() {
  return h("section", { class: "welcome" },
    h("h2", {}, "Ask something"),
    h("p", {}, "Type below, or drop a picture, a text or a PDF file anywhere on this page. "
      + "Chats are kept in this browser; answers come from your own server."),
    h("ul", { class: "samples" }, SAMPLES.map((text) =>
      h("li", {}, h("button", { type: "button", onclick: () => onSample(text) }, text)))));
}

// The messages by keyboard: the one before or after the focused one.
export function step(direction) {
  const all = [...views.values()].map((view) => view.element);
  const now = all.findIndex((element) => element.contains(document.activeElement));
  const next = now < 0 ? (direction < 0 ? all.length - 1 : 0) : now + direction;
  all[Math.min(Math.max(next, 0), all.length - 1)]?.focus();
}

export const lastView = (role) => [...views.values()].filter((view) => view.message.role === role).at(-1) ?? null;
