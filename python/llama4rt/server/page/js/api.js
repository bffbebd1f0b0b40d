// Talking to the server that this page came from.

import { settings } from "./settings.js";

export class ServerError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function headers() {
  return { "content-type": "application/json", ...(settings.key ? { authorization: `Bearer ${settings.key}` } : {}) };
}

// The reply, or ServerError in words for a person.
export async function ask(path, body, signal) {
  let reply;
  try {
    const request = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    reply = await fetch(path, { ...request, headers: headers(), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is it running, and can this machine reach it?", 0, null);
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

async function refusal(reply) {
  try {
    const { error } = await reply.json();
    return new ServerError(String(error.message), reply.status, error.code);
  } catch { // a proxy's page
    const words = `The server, or a proxy before it, answered ${reply.status} ${reply.statusText}`.trim();
    return new ServerError(`${words} without saying why`, reply.status, null);
  }
}

export const json = async (path, body, signal) => (await ask(path, body, signal)).json();

export const models = async () => (await json("v1/models")).data;

// Tokens of a text. null: more than the context holds.
export async function countTokens(text, signal) {
  if (!text) return 0;
  try {
    return (await json("tokenize", { prompt: text, add_special_tokens: false }, signal)).count;
  } catch (error) {
    if (error.code === "context_length_exceeded" || error.status === 413) return null;
    throw error;
  }
}

// Server-sent events, as objects. A character may come in two pieces, an event in many.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      const parts = buffer.split("\n\n");
      buffer = parts.pop();
      for (const part of parts)
        if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
