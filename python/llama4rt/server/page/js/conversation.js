// A conversation is a tree of messages: asking again or differently grows a branch, and nothing is lost. `leaf` is the
// end of the branch that is shown.
//
// A message: {id, parent, role: "user" | "assistant" | "tool", text, at} and where there are any: pictures (data URLs),
// files ({name, text, tokens}), calls ({id, name, arguments}), call_id, state ("writing", "done", "stopped", "failed"),
// error, numbers (see numbers.js), model.

export const newId = () => crypto.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "", named: false, created: now, updated: now, messages: {}, leaf: null };
}

export function add(conversation, parent, fields) {
  const message = { id: newId(), parent, text: "", at: Date.now(), ...fields };
  conversation.messages[message.id] = message;
  conversation.leaf = message.id;
  touch(conversation);
  return message;
}

export function touch(conversation) {
  conversation.updated = Date.now();
  if (conversation.named) return;
  const first = path(conversation).find((message) => message.role === "user");
  if (first) conversation.title = titleOf(first);
}

function titleOf(message) {
  const words = message.text.trim().replace(/\s+/g, " ");
  if (words) return words.length > 60 ? `${words.slice(0, 59)}…` : words;
  return message.files?.[0]?.name ?? "A picture";
}

// From the first message to the end of the shown branch, or to `leaf`.
export function path(conversation, leaf = conversation.leaf) {
  const out = [];
  for (let message = conversation.messages[leaf]; message; message = conversation.messages[message.parent])
    out.unshift(message);
  return out;
}

const childrenOf = (conversation, id) =>
  Object.values(conversation.messages).filter((message) => message.parent === id).sort((a, b) => a.at - b.at);

// The versions of a message, itself among them.
export const versions = (conversation, message) =>
  childrenOf(conversation, message.parent).filter((other) => (other.role === "user") === (message.role === "user"));

// Shows the branch of that message, to its newest end.
export function show(conversation, id) {
  let end = id;
  for (let next = childrenOf(conversation, id); next.length; next = childrenOf(conversation, end)) end = next.at(-1).id;
  conversation.leaf = end;
}

// A conversation of its own that ends with that message.
export function fork(conversation, id) {
  const copy = newConversation();
  for (const message of path(conversation, id)) copy.messages[message.id] = structuredClone(message);
  copy.leaf = id;
  copy.title = `${conversation.title || "Chat"} (branch)`;
  copy.named = true;
  return copy;
}

// As the API takes it, from the first message to `leaf`. An answer of which nothing came is left out.
export function apiMessages(conversation, leaf, system) {
  const out = system ? [{ role: "system", content: system }] : [];
  for (const message of path(conversation, leaf)) {
    if (message.role === "user") out.push({ role: "user", content: userContent(message) });
    else if (message.role === "tool")
      out.push({ role: "tool", tool_call_id: message.call_id, content: message.text });
    else if (message.text || message.calls?.length) {
      const calls = (message.calls ?? []).map(({ id, name, arguments: given }) =>
        ({ id, type: "function", function: { name, arguments: given } }));
      out.push({ role: "assistant", content: message.text, ...(calls.length ? { tool_calls: calls } : {}) });
    }
  }
  return out;
}

function userContent(message) {
  const texts = [...(message.files ?? []).map(fileText), message.text].filter(Boolean).join("\n\n");
  if (!message.pictures?.length) return texts;
  const pictures = message.pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  return texts ? [...pictures, { type: "text", text: texts }] : pictures;
}

// A fence longer than any in the text keeps the text apart from what is said about it.
export function fileText({ name, text }) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `File ${name}:\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
}

export const plainText = (conversation) =>
  Object.values(conversation.messages).map((message) => message.text).join("\n");

// What was being written when the page was left will not go on.
export function settle(conversation) {
  for (const message of Object.values(conversation.messages))
    if (message.state === "writing") message.state = "stopped";
}
