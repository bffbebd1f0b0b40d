// The text of a PDF file, by pdf.js in a worker. Loaded with the first such file; nothing of it is drawn or run.

import * as pdfjs from "../vendor/pdfjs/pdf.js";

const MOST_PAGES = 2000;

// The one address that a worker may have here.
const workers = globalThis.trustedTypes?.createPolicy("llama4rt", {
  createScriptURL: (url) => {
    if (url !== workerUrl) throw new TypeError(`${url} is not this page's worker`);
    return url;
  },
}) ?? { createScriptURL: (url) => url };
const workerUrl = new URL("../vendor/pdfjs/pdf.worker.js", import.meta.url).href;

export async function pdfText(data, onPage = () => {}) {
  const port = new Worker(workers.createScriptURL(workerUrl), { type: "module" });
  const worker = new pdfjs.PDFWorker({ port });
  try {
    const task = pdfjs.getDocument({
      data, worker, disableFontFace: true, useSystemFonts: false, useWasm: false, isEvalSupported: false, verbosity: 0,
    });
    const document = await task.promise.catch((error) => {
      throw new Error(error.name === "PasswordException" ? "it asks for a password" : "it is no PDF file, or damaged");
    });
    const count = document.numPages;
    if (count > MOST_PAGES) throw new Error(`it has ${count} pages; at most ${MOST_PAGES} are read`);
    const pages = [];
    for (let number = 1; number <= count; number += 1) {
      const page = await document.getPage(number);
      pages.push(lines((await page.getTextContent()).items));
      page.cleanup();
      onPage(number, count);
    }
    const text = pages.join("\n\n").trim();
    if (!text) throw new Error("it holds no text: its pages are pictures. Send a picture of a page instead");
    return text;
  } finally {
    worker.destroy();
    port.terminate();
  }
}

const lines = (items) => items.map((item) => (item.str ?? "") + (item.hasEOL ? "\n" : "")).join("").trim();
