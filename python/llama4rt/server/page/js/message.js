// One message on the page: what was said, what can be done with it, and its numbers.

import { chat } from "./chat.js";
import { versions } from "./conversation.js";
import { copyText, h, iconButton } from "./dom.js";
import { announce } from "./announce.js";
import { icon } from "./icons.js";
import { count, seconds, summary } from "./numbers.js";
import { editor } from "./message_editor.js";
import { callView } from "./tool_calls.js";

// Markdown and what belongs to it come when the first answer does.
let markdown = null;
const drawer = () => (markdown ??= import("./markdown.js"));

const openSettings = async () => (await import("./settings_dialog.js")).openSettings();
const wordButton = (name, text, onclick) => h("button", { type: "button", class: "retry", onclick }, icon(name), text);

export class MessageView {
  // followed(draw): draws, and scrolls with it where the end was in sight
  constructor(message, followed) {
    this.message = message;
    this.followed = followed;
    this.frame = 0;
    this.heading = h("h2", { class: "who" });
    this.body = h("div", { class: "text" });
    this.calls = h("div", { class: "calls" });
    this.note = h("p", { class: "note" });
    this.actions = h("div", { class: "actions" });
    this.element = h("article", { class: message.role, tabindex: "-1", "aria-busy": "true" },
      this.heading, this.attached(), this.body, this.calls, this.note, this.actions);
    this.drawn = null; // of Markdown
    this.editing = null;
    this.isLoading = false;
    this.isPlain = false; // it could not be loaded
  }

  // Once a frame at most: a fast model sends more than a screen can show.
  update() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.followed(() => this.draw());
    });
  }

  draw() {
    const { message, element } = this;
    const isWriting = chat.answer?.message === message;
    element.classList.toggle("waiting", isWriting);
    const who = message.role === "user" ? "You" : message.role === "tool" ? `Result of ${message.name}`
      : message.model || "Answer";
    this.heading.textContent = message.edited ? `${who}, edited by you` : who;
    element.setAttribute("aria-label", who);
    if (!this.editing) this.drawText(isWriting);
    this.drawCalls(isWriting);
    this.drawNote(isWriting);
    this.drawActions(isWriting);
    element.setAttribute("aria-busy", String(isWriting || this.isLoading));
  }

  drawText(isWriting) {
    const { message, body } = this;
    if (message.role !== "assistant") {
      body.textContent = message.text;
      body.hidden = !message.text;
      return;
    }
    if (this.drawn) {
      this.drawn.update(message.text, !isWriting);
      return;
    }
    body.classList.add("raw");
    body.textContent = message.text;
    if (!message.text || this.isLoading || this.isPlain) return;
    this.isLoading = true;
    drawer().then(({ Markdown }) => {
      body.classList.remove("raw");
      body.replaceChildren();
      this.drawn = new Markdown(body);
    }, () => { this.isPlain = true; }) // the server is gone: the text stays as it is
      .then(() => {
        this.isLoading = false;
        this.update();
      });
  }

  drawCalls(isWriting) {
    const { message } = this;
    const calls = message.calls ?? [];
    const isOpen = this.isLast() && !isWriting && !chat.answer;
    const shape = JSON.stringify([calls, isOpen]);
    if (this.callsShape === shape) return;
    this.callsShape = shape;
    this.calls.replaceChildren(...(calls.length ? [callView(message, isOpen)] : []));
  }

  drawNote(isWriting) {
    const { message, note } = this;
    note.classList.toggle("error", message.state === "failed");
    const numbers = message.role === "assistant" ? summary(message) : "";
    const progress = isWriting ? chat.answer.progress : null;
    if (progress) note.textContent = `reading ${count(progress.processed)} of ${count(progress.total)} tokens`;
    else if (isWriting && !message.text && !message.calls?.length) note.textContent = "waiting for the model";
    else note.textContent = [message.error, numbers].filter(Boolean).join(" · ");
    note.hidden = !note.textContent;
    const { prompt_tokens: prompt, seconds: all } = message.numbers ?? {};
    note.title = prompt ? `${count(prompt)} tokens in the prompt; ${seconds(all)} in all` : "";
  }

  isLast() { return chat.path.at(-1) === this.message; }

  drawActions(isWriting) {
    const { message } = this;
    const all = versions(chat.shown, message);
    const shape = [isWriting, Boolean(chat.answer), message.state, message.reason, all.length, all.indexOf(message),
      this.isLast(), Boolean(message.text), Boolean(this.editing)].join();
    if (this.shape === shape) return;
    this.shape = shape;
    const focus = document.activeElement;
    const held = this.actions.contains(focus) ? focus.getAttribute("aria-label") : null;
    this.actions.hidden = isWriting || Boolean(this.editing);
    this.actions.replaceChildren(...this.buttons(all).filter(Boolean));
    if (held) [...this.actions.querySelectorAll("button")].find((b) => b.getAttribute("aria-label") === held)?.focus();
  }

  buttons(all) {
    const { message } = this;
    if (chat.answer) return message.text ? [this.copyButton()] : [];
    const answer = message.role === "assistant";
    const failed = message.state === "failed";
    const at = all.indexOf(message);
    return [
      failed && wordButton("retry", "Try again", () => chat.again(message)),
      message.code === "invalid_api_key" && wordButton("settings", "Give a key", openSettings),
      all.length > 1 && h("span", { class: "versions", role: "group", "aria-label": "Versions" },
        iconButton("back", "Earlier version", () => chat.showVersion(message, -1), { disabled: at === 0 }),
        h("span", { class: "at" }, `${at + 1} / ${all.length}`),
        iconButton("forth", "Later version", () => chat.showVersion(message, 1), { disabled: at === all.length - 1 })),
      message.text && this.copyButton(),
      message.role !== "tool" && (message.text || !answer) && iconButton("edit", "Edit", () => this.edit()),
      answer && !failed && iconButton("retry", "Answer again", () => chat.again(message)),
      answer && message.text && this.isLast() && (message.state === "stopped" || message.reason === "length"
        || message.edited || failed) && iconButton("more", "Continue", () => chat.goOn(message)),
      iconButton("branch", "Branch off into a new chat", () => chat.fork(message)),
    ];
  }

  copyButton() {
    const button = iconButton("copy", "Copy", async () => {
      await copyText(this.message.text);
      button.replaceChildren(icon("check"));
      announce("Copied");
      setTimeout(() => button.replaceChildren(icon("copy")), 1500);
    });
    return button;
  }

  edit() {
    const done = (text) => {
      this.editing.remove();
      this.editing = null;
      this.body.hidden = false;
      if (text === null) { this.update(); this.element.focus(); } else chat.edit(this.message, text);
    };
    this.editing = editor(this.message, done);
    this.body.hidden = true;
    this.body.after(this.editing);
    this.editing.querySelector("textarea").focus();
    this.drawActions(false);
  }

  attached() {
    const { pictures = [], files = [] } = this.message;
    if (!pictures.length && !files.length) return null;
    return h("div", { class: "attached" },
      pictures.map((url, i) => h("img", { src: url, alt: `Picture ${i + 1} of this message` })),
      files.map((file) => h("details", { class: "file" },
        h("summary", {}, icon("file"), h("span", {}, file.name),
          file.tokens ? h("span", { class: "quiet" }, `${count(file.tokens)} tokens`) : null),
        h("pre", { tabindex: "0" }, file.text))));
  }
}
