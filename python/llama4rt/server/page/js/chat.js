// What happens with conversations: which one is shown, what is being answered in any of them, what is kept.

import { announce, toast } from "./announce.js";
import * as tree from "./conversation.js";
import { Generation } from "./generation.js";
import * as store from "./store.js";
import { summary } from "./numbers.js";

const SAVE_EVERY_MS = 1500;
const SHOWN = "llama4rt.shown";

class Chat {
  constructor() {
    this.shown = tree.newConversation();
    this.running = new Map(); // a conversation's id -> its Generation
    this.listeners = new Set();
    this.saved = new Map(); // a conversation's id -> when it was last kept
    this.others = "BroadcastChannel" in window ? new BroadcastChannel("llama4rt") : null;
    if (this.others) this.others.onmessage = ({ data }) => this.heard(data);
  }

  // kind: "shown" another conversation or branch; "message" one message changed; "list" the list of conversations;
  // "running" something begins or ends.
  listen(listener) { this.listeners.add(listener); }
  tell(kind, detail) { for (const listener of this.listeners) listener(kind, detail); }

  get answer() { return this.running.get(this.shown.id) ?? null; }
  get path() { return tree.path(this.shown); }
  isEmpty() { return this.shown.leaf === null; }

  fresh() {
    this.shown = tree.newConversation();
    this.tell("shown");
  }

  async open(id) {
    const running = this.running.get(id);
    const found = running?.conversation ?? await store.load(id);
    if (!found) return toast("This chat is no longer there");
    if (!running) tree.settle(found);
    this.shown = found;
    this.tell("shown");
  }

  // After a reload the tab shows what it showed before.
  async reopen() {
    let id = null;
    try { id = sessionStorage.getItem(SHOWN); } catch { /* nothing was kept */ }
    if (id && this.isEmpty() && await store.load(id)) await this.open(id);
    this.listen((kind) => {
      if (kind !== "shown" && kind !== "running") return;
      try { sessionStorage.setItem(SHOWN, this.shown.id); } catch { /* a private window */ }
    });
  }

  // --- what a person does in a conversation ---

  send({ text, pictures, files }) {
    // A question that failed is asked anew beside its first form, so that the failure is not sent along.
    const last = this.path.at(-1);
    const failed = last?.role === "assistant" && last.state === "failed" && !last.text && !last.calls?.length;
    const parent = failed ? this.shown.messages[last.parent]?.parent ?? null : this.shown.leaf;
    const message = tree.add(this.shown, parent, { role: "user", text, pictures, files });
    return this.reply(this.shown, message.id);
  }

  edit(message, text) {
    if (message.role === "assistant") {
      const { id, parent, at, numbers, reason, ...rest } = message;
      tree.add(this.shown, parent, { ...structuredClone(rest), text, state: "done", edited: true });
      this.tell("shown");
      return this.keep(this.shown);
    }
    const { pictures, files } = message;
    const changed = tree.add(this.shown, message.parent, { role: "user", text, pictures, files });
    return this.reply(this.shown, changed.id);
  }

  again(message) {
    if (message.state !== "failed" || message.text || message.calls?.length)
      return this.reply(this.shown, message.parent);
    delete this.shown.messages[message.id]; // nothing came: there is no version to keep
    return this.reply(this.shown, message.parent);
  }

  goOn(message) { return this.generate(this.shown, message, true); }

  // What the model's calls gave, as a person or a program says it.
  giveResults(message, results) {
    let last = message.id;
    message.calls.forEach((call, i) => {
      last = tree.add(this.shown, last, { role: "tool", call_id: call.id, name: call.name, text: results[i] }).id;
    });
    return this.reply(this.shown, last);
  }

  showVersion(message, step) {
    const all = tree.versions(this.shown, message);
    const other = all[all.indexOf(message) + step];
    if (!other) return;
    tree.show(this.shown, other.id);
    this.tell("shown", { keepPlace: true });
    this.keep(this.shown);
  }

  async fork(message) {
    this.shown = tree.fork(this.shown, message.id);
    this.tell("shown");
    await this.keep(this.shown);
    announce("A chat of its own, up to this message");
  }

  stop() { this.answer?.stop(); }

  // --- answering ---

  reply(conversation, parent) {
    return this.generate(conversation, tree.add(conversation, parent, { role: "assistant", state: "writing" }), false);
  }

  async generate(conversation, message, goesOn) {
    const generation = new Generation(conversation, message, { goesOn, onchange: () => this.changed(generation) });
    this.running.set(conversation.id, generation);
    this.tell(conversation === this.shown ? "shown" : "list");
    this.tell("running");
    announce("The model answers");
    this.keep(conversation);
    await generation.run();
    if (this.running.get(conversation.id) !== generation) return; // deleted meanwhile: it must not come back
    this.running.delete(conversation.id);
    tree.touch(conversation);
    this.tell("running");
    if (conversation === this.shown) {
      this.tell("message", message);
      announce(message.error ?? `${message.text || "The model calls a tool"} (${summary(message)})`);
    }
    await this.keep(conversation);
  }

  changed(generation) {
    const { conversation, message } = generation;
    if (conversation === this.shown) this.tell("message", message);
    if (Date.now() - (this.saved.get(conversation.id) ?? 0) > SAVE_EVERY_MS) this.keep(conversation, true);
  }

  // --- keeping ---

  async keep(conversation, isQuiet = false) {
    this.saved.set(conversation.id, Date.now());
    try {
      await store.save(conversation);
    } catch (error) {
      toast(`This chat could not be kept: ${error?.message ?? "the browser's storage refuses"}`);
    }
    if (isQuiet) return;
    this.tell("list");
    this.others?.postMessage({ id: conversation.id });
  }

  async rename(id, title) {
    const conversation = this.shown.id === id ? this.shown : this.running.get(id)?.conversation ?? await store.load(id);
    Object.assign(conversation, { title, named: true });
    if (conversation === this.shown) this.tell("shown", { keepPlace: true });
    await this.keep(conversation);
  }

  async remove(id) {
    this.running.get(id)?.stop();
    this.running.delete(id);
    const conversation = await store.load(id);
    await store.remove(id);
    if (this.shown.id === id) this.fresh();
    this.tell("list");
    this.others?.postMessage({ id });
    const back = async () => { await this.keep(conversation); await this.open(id); };
    if (conversation) toast(`Deleted “${conversation.title || "New chat"}”`, { name: "Undo", call: back });
  }

  async removeAll() {
    for (const generation of this.running.values()) generation.stop();
    this.running.clear();
    await store.clear();
    this.fresh();
    this.tell("list");
  }

  // Another tab has written. What this one is writing stays its own.
  async heard({ id }) {
    this.tell("list");
    if (id !== this.shown.id || this.running.has(id)) return;
    const found = await store.load(id);
    if (!found || found.updated <= this.shown.updated) return;
    this.shown = found;
    this.tell("shown", { keepPlace: true });
  }
}

export const chat = new Chat();
