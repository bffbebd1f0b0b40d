// Making elements. Text only ever becomes text: nothing here reads HTML.

import { icon } from "./icons.js";

export const $ = (id) => document.getElementById(id);

// h("button", {class: "icon", onclick: f, "aria-label": "Copy"}, child, "text")
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// A button that shows a picture; its name is read aloud and shown on hovering.
export function iconButton(name, label, onclick, properties = {}) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...properties },
    icon(name));
}

export function dress(button, name, label) {
  button.replaceChildren(icon(name));
  if (label) button.setAttribute("aria-label", label);
  button.title = button.getAttribute("aria-label");
}

export const isNarrow = () => window.matchMedia("(max-width: 60rem)").matches;

// Copies; where the browser has no clipboard for pages without TLS, as the old way still can.
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = h("textarea", { class: "unseen", value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

// Calls at most once in `wait` ms, the last time with the newest arguments.
export function calmly(wait, call) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), wait);
  };
}
