// Conversations to a file and back: one JSON document, or one conversation as Markdown to read.

import { toast } from "./announce.js";
import { chat } from "./chat.js";
import { newId, path } from "./conversation.js";
import { h } from "./dom.js";
import * as store from "./store.js";

const KIND = "llama4rt-chats";
const ROLES = new Set(["user", "assistant", "tool"]);

export async function exportAll() {
  const conversations = await store.all();
  download("llama4rt-chats.json", "application/json", JSON.stringify({ kind: KIND, version: 1, conversations }));
  toast(`${conversations.length} chats are in llama4rt-chats.json`);
}

export function exportShown() {
  const { title } = chat.shown;
  const parts = path(chat.shown).map((message) => {
    const who = message.role === "user" ? "You" : message.role === "tool" ? `Result of ${message.name}`
      : message.model ?? "Answer";
    const files = (message.files ?? []).map((file) => `*File: ${file.name}*\n\n`).join("");
    const pictures = message.pictures?.length ? `*${message.pictures.length} pictures*\n\n` : "";
    const calls = (message.calls ?? []).map((call) => `\n\n\`${call.name}(${call.arguments})\``).join("");
    return `## ${who}\n\n${pictures}${files}${message.text}${calls}\n`;
  });
  const name = (title || "chat").replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "chat";
  download(`${name}.md`, "text/markdown", `# ${title || "Chat"}\n\n${parts.join("\n")}`);
}

export function importFile() {
  const picker = h("input", { type: "file", accept: "application/json,.json", hidden: true });
  picker.addEventListener("change", async () => {
    const file = picker.files[0];
    picker.remove();
    if (!file) return;
    try {
      const added = await addAll(await file.text());
      toast(`${added} chats were added`);
      chat.tell("list");
    } catch (error) {
      toast(`${file.name}: ${error.message}`);
    }
  });
  document.body.append(picker);
  picker.click();
}

// Adds what the text holds, beside what is there; each under an id of its own.
export async function addAll(text) {
  let data;
  try { data = JSON.parse(text); } catch { throw new Error("it is not JSON"); }
  if (data?.kind !== KIND || !Array.isArray(data.conversations))
    throw new Error(`it was not exported by this page (its "kind" must be "${KIND}")`);
  const wrong = data.conversations.findIndex((one) => !isConversation(one));
  if (wrong >= 0) throw new Error(`chat ${wrong + 1} of ${data.conversations.length} is damaged; nothing was added`);
  for (const one of data.conversations) await store.save({ ...one, id: newId() });
  return data.conversations.length;
}

// The whole form is looked at: a file may come from anywhere. Every message leads to a first one.
function isConversation(one) {
  if (typeof one?.title !== "string" || !Number.isFinite(one.updated)) return false;
  if (typeof one.messages !== "object" || !one.messages) return false;
  if (one.leaf !== null && !Object.hasOwn(one.messages, one.leaf)) return false;
  const texts = (list) => list === undefined || (Array.isArray(list) && list.every((item) => typeof item === "string"));
  const objects = (list, names) => list === undefined || (Array.isArray(list)
    && list.every((item) => item && names.every((name) => typeof item[name] === "string")));
  return Object.entries(one.messages).every(([id, message]) =>
    message?.id === id && ROLES.has(message.role) && typeof message.text === "string" && Number.isFinite(message.at)
    && texts(message.pictures) && (message.pictures ?? []).every((url) => url.startsWith("data:image/"))
    && objects(message.files, ["name", "text"]) && objects(message.calls, ["id", "name", "arguments"])
    && leadsToFirst(one.messages, message));
}

function leadsToFirst(messages, message) {
  const seen = new Set();
  for (let at = message; at.parent !== null; at = messages[at.parent]) {
    if (seen.has(at.id) || !Object.hasOwn(messages, at.parent)) return false;
    seen.add(at.id);
  }
  return true;
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
