// What a person has chosen, kept in this browser. The API key is kept for the tab only, unless asked otherwise.

export const NUMBERS = [
  // name, label, least, most, step, what holds without a value
  ["temperature", "Temperature", 0, 2, 0.05, "model's own"],
  ["max_completion_tokens", "Longest answer, tokens", 1, null, 1, "no limit"],
  ["top_p", "Top p", 0.01, 1, 0.01, "model's own"],
  ["top_k", "Top k", -1, null, 1, "model's own"],
  ["min_p", "Min p", 0, 1, 0.01, "off"],
  ["repetition_penalty", "Repetition penalty", 0.1, 3, 0.05, "model's own"],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1, "off"],
  ["seed", "Seed", null, null, 1, "another each time"],
];

const DEFAULTS = {
  theme: "", system: "", model: "", tools: "", tool_choice: "auto", schema: "", key: "", keep_key: false,
  ...Object.fromEntries(NUMBERS.map(([name]) => [name, ""])),
};
const NAME = "llama4rt.settings";

export const settings = { ...DEFAULTS };
const listeners = new Set();

export function recall() {
  for (const [shelf, wanted] of [[() => localStorage, null], [() => sessionStorage, "key"]]) {
    try {
      const kept = JSON.parse(shelf().getItem(NAME) ?? "{}");
      for (const name of Object.keys(DEFAULTS))
        if (name in kept && (wanted === null || name === wanted)) settings[name] = kept[name];
    } catch { /* a private window, or somebody else's value */ }
  }
  showTheme();
}

export function change(values) {
  Object.assign(settings, values);
  const { key, ...others } = settings;
  try {
    localStorage.setItem(NAME, JSON.stringify(settings.keep_key ? settings : others));
    sessionStorage.setItem(NAME, JSON.stringify({ key }));
  } catch { /* they hold until the page is left */ }
  showTheme();
  for (const listener of listeners) listener();
}

export const onChange = (listener) => listeners.add(listener);

// The fields of a request: what was left empty is the model's business.
export function samplingFields() {
  const given = NUMBERS.map(([name]) => [name, settings[name]]).filter(([, value]) => value !== "" && value !== null);
  return Object.fromEntries(given.map(([name, value]) => [name, Number(value)]));
}

// Tools and the form of the answer, as the panel has checked them.
export function formFields() {
  const fields = {};
  if (settings.tools.trim()) {
    fields.tools = JSON.parse(settings.tools);
    fields.tool_choice = settings.tool_choice;
  }
  if (settings.schema.trim())
    fields.response_format = {
      type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(settings.schema) },
    };
  return fields;
}

function showTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
}
