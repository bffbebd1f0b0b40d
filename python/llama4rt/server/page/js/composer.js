// The message being written: its text, what goes with it, what it will take of the context.

import { countTokens } from "./api.js";
import { ACCEPTED, Attachments } from "./attachments.js";
import { chat } from "./chat.js";
import { $, calmly, dress } from "./dom.js";
import { count } from "./numbers.js";
import { lastView } from "./transcript.js";

const DRAFT = "llama4rt.draft";
const HINT = "Enter sends, Shift+Enter makes a new line";

let attachments = null;
let textTokens = 0; // of the draft; null: more than fit
let contextLength = null;
let counting = null;

export function startComposer() {
  attachments = new Attachments($("pending"), showState);
  const text = $("text");
  $("file").accept = ACCEPTED;
  dress($("attach"), "attach");
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { attachments.add($("file").files); $("file").value = ""; });
  $("sheet").addEventListener("submit", (event) => { event.preventDefault(); chat.answer ? chat.stop() : send(); });
  text.addEventListener("input", () => { grow(); keepDraft(); showState(); recount(); });
  text.addEventListener("keydown", onKey);
  text.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    attachments.add(event.clipboardData.files);
  });
  startDropping();
  chat.listen((kind) => { if (kind === "shown" || kind === "running") showState(); });
  try { text.value = sessionStorage.getItem(DRAFT) ?? ""; } catch { /* nothing was kept */ }
  grow();
  showState();
  if (text.value) recount();
}

export function setContextLength(tokens) {
  contextLength = tokens ?? null;
  attachments.limit = tokens ?? Infinity;
  showState();
}

export function fill(text) {
  $("text").value = text;
  grow();
  showState();
  $("text").focus();
}

export async function send() {
  const text = $("text").value.trim();
  if (chat.answer || attachments.isReading || (!text && !attachments.items.length)) return;
  const message = { text, ...attachments.take() };
  $("text").value = "";
  textTokens = 0;
  grow();
  keepDraft();
  await chat.send(message);
}

function onKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
  if (event.key === "ArrowUp" && !$("text").value && !event.altKey && !chat.answer) {
    const last = lastView("user");
    if (last) { event.preventDefault(); last.edit(); }
  }
}

function startDropping() {
  const sheet = $("sheet");
  document.addEventListener("dragover", (event) => { event.preventDefault(); sheet.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) sheet.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    sheet.classList.remove("over");
    if (event.dataTransfer.files.length) attachments.add(event.dataTransfer.files);
  });
}

const recount = calmly(400, async () => {
  counting?.abort();
  counting = new AbortController();
  const text = $("text").value.trim();
  try {
    textTokens = await countTokens(text, counting.signal);
  } catch { return; }
  showState();
});

// Tokens that the conversation has taken so far, by the server's count.
function tokensBefore() {
  const last = chat.path.findLast((message) => message.numbers?.prompt_tokens);
  return last ? last.numbers.prompt_tokens + (last.numbers.tokens ?? 0) : 0;
}

function showState() {
  if (!attachments) return;
  const isAnswering = Boolean(chat.answer);
  const isEmpty = !$("text").value.trim() && !attachments.items.length;
  const button = $("send");
  button.textContent = isAnswering ? "Stop" : "Send";
  button.classList.toggle("stop", isAnswering);
  button.disabled = !isAnswering && (isEmpty || attachments.isReading);
  const own = (textTokens ?? 0) + attachments.tokens;
  const tooMuch = textTokens === null || attachments.isTooLarge
    || (contextLength !== null && own + tokensBefore() > contextLength);
  $("hint").classList.toggle("wrong", tooMuch && !isEmpty);
  $("hint").textContent = isEmpty ? (tokensBefore() ? used(tokensBefore()) : HINT)
    : tooMuch ? `This does not fit: ${limit()}` : own ? `${count(own)} tokens, ${used(own + tokensBefore())}` : "";
}

const limit = () =>
  (contextLength === null ? "the context is smaller" : `the context holds ${count(contextLength)} tokens`);
const used = (tokens) => (contextLength === null ? "" : `${count(tokens)} of ${count(contextLength)} in the context`);

function keepDraft() {
  try { sessionStorage.setItem(DRAFT, $("text").value); } catch { /* it holds until the page is left */ }
}

function grow() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}
