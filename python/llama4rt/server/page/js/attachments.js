// What goes with the next message: pictures and the texts of files, each counted in tokens before anything is sent.

import { countTokens } from "./api.js";
import { toast } from "./announce.js";
import { fileText, newId } from "./conversation.js";
import { h, iconButton } from "./dom.js";
import { icon } from "./icons.js";
import { count } from "./numbers.js";
import { pictureUrl } from "./pictures.js";

const MOST_TEXT = 8 << 20; // bytes of one file's text; the server takes bodies of 32 MiB
export const ACCEPTED = "image/*,application/pdf,text/*,.md,.csv,.tsv,.json,.jsonl,.yaml,.yml,.toml,.xml,.html,.css,"
  + ".js,.ts,.py,.c,.h,.cpp,.hpp,.cu,.rs,.go,.java,.kt,.rb,.php,.sh,.sql,.tex,.log,.ini,.cfg";

export class Attachments {
  // onchange(): something was added, read, counted or removed
  constructor(place, onchange) {
    this.place = place;
    this.onchange = onchange;
    this.limit = Infinity; // tokens that the context holds
    this.items = []; // {id, kind: "picture" | "file", name, url | text, tokens (null: too many to count), state}
  }

  get isReading() { return this.items.some((item) => item.state === "reading"); }
  get tokens() { return this.items.reduce((sum, item) => sum + (item.tokens ?? 0), 0); }
  get isTooLarge() { return this.items.some((item) => this.isOver(item)); }
  isOver({ tokens }) { return tokens === null || tokens > this.limit; }

  async add(files) {
    await Promise.all([...files].map((file) => this.addOne(file)));
  }

  async addOne(file) {
    const name = file.name || "picture";
    const item = { id: newId(), kind: file.type.startsWith("image/") ? "picture" : "file", name, state: "reading" };
    this.items.push(item);
    this.show();
    try {
      if (item.kind === "picture") item.url = await pictureUrl(file);
      else item.text = await this.textOf(file, item);
      item.state = "ready";
    } catch (error) {
      this.items.splice(this.items.indexOf(item), 1);
      toast(`${name}: ${error.message}`);
    }
    this.show();
    if (item.state === "ready" && item.kind === "file") await this.measure(item);
  }

  async textOf(file, item) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (file.type === "application/pdf" || new TextDecoder("latin1").decode(bytes.subarray(0, 5)) === "%PDF-") {
      const { pdfText } = await import("./pdf_text.js");
      return pdfText(bytes, (page, pages) => { item.progress = `page ${page} of ${pages}`; this.show(); });
    }
    if (bytes.length > MOST_TEXT)
      throw new Error(`it has ${count(bytes.length)} bytes; at most ${count(MOST_TEXT)} are read`);
    if (bytes.subarray(0, 4096).includes(0)) throw new Error("it is neither a picture, nor a PDF file, nor text");
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replace(/\r\n/g, "\n");
    } catch {
      return new TextDecoder("windows-1252").decode(bytes).replace(/\r\n/g, "\n");
    }
  }

  async measure(item) {
    try {
      item.tokens = await countTokens(fileText(item));
    } catch { /* the server will say it when the message is sent */ }
    this.show();
  }

  take() {
    const pictures = this.items.filter((item) => item.kind === "picture").map((item) => item.url);
    const files = this.items.filter((item) => item.kind === "file")
      .map(({ name, text, tokens }) => ({ name, text, tokens }));
    this.items = [];
    this.show();
    return { ...(pictures.length ? { pictures } : {}), ...(files.length ? { files } : {}) };
  }

  show() {
    this.place.replaceChildren(...this.items.map((item) => this.chip(item)));
    this.onchange();
  }

  chip(item) {
    const remove = () => {
      this.items.splice(this.items.indexOf(item), 1);
      this.show();
    };
    const counted = item.tokens ? `${count(item.tokens)} tokens` : "";
    const size = item.state === "reading" ? item.progress ?? "reading"
      : this.isOver(item) ? ["does not fit", counted].filter(Boolean).join(": ") : counted;
    const face = item.kind === "picture" && item.url ? h("img", { src: item.url, alt: "" }) : icon("file");
    return h("div", { class: `chip ${item.kind}${this.isOver(item) ? " wrong" : ""}` }, face,
      h("span", { class: "chip-name" }, item.name), size ? h("span", { class: "quiet" }, size) : null,
      iconButton("close", `Remove ${item.name}`, remove));
  }
}
