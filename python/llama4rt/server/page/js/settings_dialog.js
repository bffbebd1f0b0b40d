// The settings: sampling, system prompt, look, key, and what is kept.

import { chat } from "./chat.js";
import { confirmed, field, openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { change, NUMBERS, settings } from "./settings.js";
import { keeps } from "./store.js";
import { exportAll, exportShown, importFile } from "./transfer.js";

const THEMES = [["", "As the system"], ["light", "Light"], ["dark", "Dark"]];

export function openSettings() {
  const numbers = NUMBERS.map(([name, label, min, max, step, none]) =>
    [name, h("input", { id: name, type: "number", min, max, step, placeholder: none, value: settings[name] }), label]);
  const system = h("textarea", { id: "system", rows: "4", value: settings.system });
  const theme = h("select", { id: "theme" }, THEMES.map(([value, name]) => h("option", { value }, name)));
  theme.value = settings.theme;
  theme.addEventListener("change", () => change({ theme: theme.value }));
  const key = h("input", { id: "key", type: "password", autocomplete: "off", value: settings.key });
  const keepKey = h("input", { id: "keep_key", type: "checkbox", checked: settings.keep_key });
  const save = () => change({
    ...Object.fromEntries(numbers.map(([name, input]) => [name, input.validity.valid ? input.value : settings[name]])),
    system: system.value, theme: theme.value, key: key.value.trim(), keep_key: keepKey.checked,
  });
  const act = (name, call) => h("button", { type: "button", class: "plain", onclick: call }, name);
  const dialog = openDialog("Settings", [
    h("div", { class: "fields" },
      field("System prompt", system, "Goes before every conversation."),
      h("div", { class: "grid" }, numbers.map(([, input, label]) => field(label, input))),
      h("div", { class: "grid" }, field("Look", theme), field("API key, if the server asks for one", key)),
      h("label", { class: "check" }, keepKey, h("span", {}, "Keep the key on this machine, not only for this tab"))),
    h("h3", {}, "Chats"),
    h("p", { class: "quiet" }, keeps() ? "They are kept in this browser and nowhere else."
      : "This browser keeps nothing for pages, so chats end with this tab."),
    h("div", { class: "row" },
      act("Export all", exportAll), act("Import", importFile), act("This chat as Markdown", exportShown),
      act("Delete all", async () => {
        const warning = "They cannot be had back, unless you export them first.";
        if (await confirmed("Delete all chats?", warning, "Delete all")) chat.removeAll();
      })),
    h("div", { class: "row end" },
      h("button", { type: "button", class: "strong", onclick: () => dialog.close() }, "Done")),
  ], { onclose: save });
}
