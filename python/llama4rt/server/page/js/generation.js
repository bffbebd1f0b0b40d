// One answer being written, from the request to the last event. It writes into the message it was given and nowhere
// else: whatever is on the screen meanwhile, nothing of it can come into another conversation.

import { ask, events, ServerError } from "./api.js";
import { apiMessages } from "./conversation.js";
import { formFields, samplingFields, settings } from "./settings.js";
import { Watch } from "./numbers.js";

export class Generation {
  // onchange(message): something has come. goesOn: continues the message's text instead of answering what is before it.
  constructor(conversation, message, { goesOn = false, onchange }) {
    this.conversation = conversation;
    this.message = message;
    this.goesOn = goesOn;
    this.onchange = onchange;
    this.progress = null; // {processed, total} of the prompt, until the first token
    this.abort = new AbortController();
  }

  stop() { this.abort.abort(); }

  request() {
    const { conversation, message, goesOn } = this;
    const model = settings.model ? { model: settings.model } : {};
    return {
      ...model,
      messages: apiMessages(conversation, goesOn ? message.id : message.parent, settings.system.trim()),
      ...(goesOn ? { continue_final_message: true, add_generation_prompt: false } : {}),
      ...samplingFields(), ...formFields(),
      stream: true, stream_options: { include_usage: true, continuous_usage_stats: true }, return_progress: true,
    };
  }

  async run() {
    const { message } = this;
    const watch = new Watch();
    Object.assign(message, { state: "writing", error: undefined, code: undefined, reason: undefined });
    try {
      const reply = await ask("v1/chat/completions", this.request(), this.abort.signal);
      for await (const event of events(reply.body)) this.take(event, watch);
      message.state = message.reason ? "done" : "failed";
      if (!message.reason) message.error = "The connection ended before the answer did.";
    } catch (error) {
      message.state = error.name === "AbortError" ? "stopped" : "failed";
      if (message.state === "failed") {
        message.error = error instanceof ServerError ? error.message : "The connection broke before the answer ended.";
        message.code = error.code;
      }
    }
    message.numbers = watch.numbers();
    this.progress = null;
    this.onchange(message);
  }

  take(event, watch) {
    const { message } = this;
    if (event.error) throw new ServerError(event.error.message, 200, event.error.code);
    if (event.model) message.model = event.model;
    if (event.usage) watch.usage = event.usage;
    if (event.prompt_progress) this.progress = event.prompt_progress;
    for (const choice of event.choices ?? []) {
      message.reason = choice.finish_reason ?? message.reason;
      const { content, tool_calls: calls } = choice.delta;
      if (!content && !calls) continue;
      watch.saw(event.usage);
      this.progress = null;
      message.text += content ?? "";
      for (const call of calls ?? []) this.takeCall(call);
    }
    message.numbers = watch.numbers();
    this.onchange(message);
  }

  // The first piece of a call names it; the others add to its arguments.
  takeCall({ index, id, function: called }) {
    const calls = (this.message.calls ??= []);
    calls[index] ??= { id, name: called.name, arguments: "" };
    calls[index].arguments += called?.arguments ?? "";
  }
}
