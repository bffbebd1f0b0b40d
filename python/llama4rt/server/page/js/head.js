// The line above the conversation: its name, the model, and the way to settings and tools.

import { models } from "./api.js";
import { toast } from "./announce.js";
import { chat } from "./chat.js";
import { setContextLength } from "./composer.js";
import { $, dress, h, iconButton } from "./dom.js";
import { change, onChange, settings } from "./settings.js";

export function startHead() {
  dress($("tools"), "tools");
  dress($("settings"), "settings");
  dress($("to-end"), "down");
  $("settings").addEventListener("click", openSettings);
  $("tools").addEventListener("click", async () => (await import("./tools_dialog.js")).openTools());
  $("model").addEventListener("change", () => { change({ model: $("model").value }); });
  $("side-foot").append(
    h("a", { class: "foot-link", href: "status" }, "Status of the server"),
    iconButton("keyboard", "Keyboard", async () => (await import("./keys.js")).openKeys()),
    iconButton("settings", "Settings and export", openSettings));
  onChange(() => { showTools(); showModels(); });
  chat.listen((kind) => { if (kind === "shown" || kind === "list") showTitle(); });
  showTitle();
  showTools();
  return showModels();
}

export const openSettings = async () => (await import("./settings_dialog.js")).openSettings();

function showTitle() {
  const title = chat.shown.title || "New chat";
  $("title").textContent = title;
  document.title = chat.shown.title ? `${title} · llama4rt` : "llama4rt";
}

function showTools() {
  const isOn = Boolean(settings.tools.trim() || settings.schema.trim());
  $("tools").classList.toggle("on", isOn);
  $("tools").setAttribute("aria-label", isOn ? "Tools and schema, in use" : "Tools and schema");
}

let asked = null; // with which key

async function showModels() {
  const choice = $("model");
  if (asked === settings.key && choice.options.length) return undefined;
  asked = settings.key;
  try {
    const found = await models();
    choice.replaceChildren(...found.map(({ id }) => h("option", { value: id }, id)));
    const chosen = found.find(({ id }) => id === settings.model) ?? found[0];
    choice.value = chosen.id;
    choice.disabled = found.length < 2;
    choice.title = chosen.id;
    if (settings.model && settings.model !== chosen.id) change({ model: "" });
    setContextLength(chosen.max_model_len);
  } catch (error) {
    asked = null;
    choice.replaceChildren();
    if (error.status === 401) toast("This server asks for an API key", { name: "Settings", call: openSettings });
    else toast(error.message, { name: "Try again", call: showModels });
  }
  return undefined;
}
