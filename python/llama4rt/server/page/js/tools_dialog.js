// Tools that the model may call, and a JSON schema that answers must follow. Checked here before they are kept, so that
// a missing comma is seen while it is written.

import { field, openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { change, settings } from "./settings.js";

const EXAMPLE_TOOLS = [{
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}];
const EXAMPLE_SCHEMA = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
};
const CHOICES = [["auto", "The model decides"], ["required", "Always one"], ["none", "Never"]];

export function openTools() {
  const tools = jsonField("tools-json", settings.tools, wrongTools);
  const schema = jsonField("schema-json", settings.schema, wrongSchema);
  const choice = h("select", { id: "tool_choice" }, CHOICES.map(([value, name]) => h("option", { value }, name)));
  choice.value = settings.tool_choice;
  const button = (name, onclick) => h("button", { type: "button", class: "plain", onclick }, name);
  const fill = (one, example) => button("Example", () => one.set(example));
  const empty = (one) => button("Clear", () => one.set(null));
  const dialog = openDialog("Tools and schema", [
    h("p", { class: "quiet" }, "Calls are shown in the chat, where you say what they gave; nothing is run from here."),
    h("div", { class: "fields" },
      field("Tools, a JSON list as OpenAI’s API takes it", tools.input), tools.problem,
      h("div", { class: "row" }, fill(tools, EXAMPLE_TOOLS), empty(tools)),
      field("Calls", choice),
      field("JSON schema that every answer follows", schema.input), schema.problem,
      h("div", { class: "row" }, fill(schema, EXAMPLE_SCHEMA), empty(schema))),
    h("div", { class: "row end" },
      h("button", { type: "button", class: "strong", onclick: () => dialog.close() }, "Done")),
  ], {
    kind: "wide",
    onclose: () => change({ // what is wrong is not kept
      tool_choice: choice.value,
      ...(tools.check() ? {} : { tools: tools.input.value.trim() }),
      ...(schema.check() ? {} : { schema: schema.input.value.trim() }),
    }),
  });
}

function jsonField(id, text, wrong) {
  const problem = h("p", { class: "problem", id: `${id}-problem`, role: "status" });
  const input = h("textarea", { id, rows: "7", class: "mono", spellcheck: "false", value: text,
    "aria-describedby": problem.id });
  const check = () => {
    const found = input.value.trim() ? wrong(input.value) : "";
    problem.textContent = found;
    input.setAttribute("aria-invalid", String(Boolean(found)));
    return found;
  };
  const set = (value) => {
    input.value = value === null ? "" : JSON.stringify(value, null, 2);
    check();
  };
  input.addEventListener("input", check);
  return { input, problem, check, set };
}

function wrongTools(text) {
  const [value, wrong] = parsed(text);
  if (wrong) return wrong;
  if (!Array.isArray(value)) return "It must be a list: [ ... ]";
  const at = value.findIndex((tool) => tool?.type !== "function" || typeof tool.function?.name !== "string");
  if (at >= 0) return `Tool ${at + 1} must be {"type": "function", "function": {"name": ..., "parameters": {...}}}`;
  return "";
}

function wrongSchema(text) {
  const [value, wrong] = parsed(text);
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  return wrong || (isObject ? "" : "It must be an object: { ... }");
}

function parsed(text) {
  try { return [JSON.parse(text), ""]; } catch (error) { return [null, error.message]; }
}
