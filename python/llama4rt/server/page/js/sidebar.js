// The list of conversations: by day, searched by what was said, renamed and deleted where they stand.

import { announce } from "./announce.js";
import { chat } from "./chat.js";
import { plainText } from "./conversation.js";
import { $, calmly, dress, h, iconButton, isNarrow } from "./dom.js";
import * as store from "./store.js";

const DAY = 24 * 60 * 60 * 1000;
let renaming = null; // the id of a conversation

export function startSidebar() {
  dress($("close-sidebar"), "close");
  dress($("open-sidebar"), "menu");
  $("fresh").addEventListener("click", () => { chat.fresh(); close(); $("text").focus(); });
  $("open-sidebar").addEventListener("click", toggle);
  $("close-sidebar").addEventListener("click", () => { close(true); $("open-sidebar").focus(); });
  $("veil").addEventListener("click", () => close());
  $("search").addEventListener("input", calmly(150, show));
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); $("chats").querySelector("button")?.focus(); }
    if (event.key === "Escape" && $("search").value) { event.stopPropagation(); $("search").value = ""; show(); }
  });
  $("chats").addEventListener("keydown", onKey);
  window.matchMedia("(max-width: 60rem)").addEventListener("change", () => setOpen(!isNarrow()));
  setOpen(!isNarrow());
  chat.listen((kind) => { if (kind !== "message") calmShow(); });
  show();
}

export function toggle() {
  const isOpen = document.body.classList.contains("with-sidebar");
  setOpen(!isOpen);
  if (!isOpen && isNarrow()) $("search").focus();
}

export function search() {
  setOpen(true);
  $("search").focus();
  $("search").select();
}

// Over the conversation on a narrow screen, beside it on a wide one: there it stays unless it is closed itself.
export function close(always = false) {
  if (always || isNarrow()) setOpen(false);
}

function setOpen(isOpen) {
  document.body.classList.toggle("with-sidebar", isOpen);
  $("sidebar").inert = !isOpen;
  $("open-sidebar").setAttribute("aria-expanded", String(isOpen));
  $("veil").hidden = !isOpen || !isNarrow();
  $("stage").inert = isOpen && isNarrow();
}

const calmShow = calmly(60, show);

async function show() {
  if (renaming) return;
  const wanted = $("search").value.trim().toLowerCase();
  const says = (one) => `${one.title}\n${plainText(one)}`.toLowerCase().includes(wanted);
  const found = await store.heads(wanted ? says : null);
  const held = $("chats").contains(document.activeElement) ? document.activeElement.dataset.chat : null;
  const groups = new Map();
  for (const head of found) {
    const name = groupOf(head.updated);
    groups.set(name, [...(groups.get(name) ?? []), head]);
  }
  $("chats").replaceChildren(...[...groups].map(([name, heads]) =>
    h("section", {}, h("h2", {}, name), h("ul", {}, heads.map(row)))));
  if (!found.length)
    $("chats").append(h("p", { class: "none" }, wanted ? "No chat says that" : "Your chats will be listed here"));
  if (wanted) announce(`${found.length} chats found`);
  if (held) $("chats").querySelector(`[data-chat="${CSS.escape(held)}"]`)?.focus();
}

function groupOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  if (time >= midnight - 7 * DAY) return "Last seven days";
  return new Date(time).toLocaleDateString("en-US", { month: "long", year: "numeric" });
}

function row(head) {
  const title = head.title || "New chat";
  const isShown = head.id === chat.shown.id;
  const isRunning = chat.running.has(head.id);
  return h("li", { class: isShown ? "shown" : "" },
    h("button", { type: "button", class: "chat", "data-chat": head.id, "aria-current": isShown ? "true" : null,
      onclick: () => { chat.open(head.id); close(); } },
    isRunning ? h("span", { class: "busy", role: "img", "aria-label": "being answered" }) : null,
    h("span", { class: "chat-title" }, title)),
    iconButton("edit", `Rename ${title}`, (event) => rename(head, event.currentTarget.closest("li"))),
    iconButton("trash", `Delete ${title}`, () => chat.remove(head.id)));
}

function rename(head, place) {
  renaming = head.id;
  const field = h("input", { type: "text", value: head.title, "aria-label": "Name of the chat", maxlength: "200" });
  const done = async (isKept) => {
    if (!renaming) return;
    renaming = null;
    const title = field.value.trim();
    if (isKept && title && title !== head.title) await chat.rename(head.id, title);
    await show();
    $("chats").querySelector(`[data-chat="${CSS.escape(head.id)}"]`)?.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") done(true);
    if (event.key === "Escape") { event.stopPropagation(); done(false); }
  });
  field.addEventListener("blur", () => done(true));
  place.replaceChildren(field);
  field.focus();
  field.select();
}

function onKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.target.tagName === "INPUT") return;
  const all = [...$("chats").querySelectorAll("button.chat")];
  const now = all.findIndex((button) => button.closest("li").contains(document.activeElement));
  event.preventDefault();
  if (now + step < 0) $("search").focus();
  else all[now + step]?.focus();
}
