// Numbers of an answer, from the server's own counts. No rate is shown that was not measured: events hold several
// tokens, so only the time between the first and the last of them says something, and only where it is long enough.

const LEAST_MS = 200;

export class Watch {
  constructor(clock = () => performance.now()) {
    this.clock = clock;
    this.started = clock();
    this.first = this.last = null; // {at, tokens}
    this.usage = null;
  }

  // An event with text or calls has come; usage: the server's count up to and with it.
  saw(usage) {
    const now = { at: this.clock(), tokens: usage?.completion_tokens ?? null };
    this.first ??= now;
    this.last = now;
  }

  numbers() {
    const { first, last, usage } = this;
    const out = { seconds: (this.clock() - this.started) / 1000 };
    if (first) out.first_seconds = (first.at - this.started) / 1000;
    if (usage) {
      out.tokens = usage.completion_tokens;
      out.prompt_tokens = usage.prompt_tokens;
      out.cached_tokens = usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    if (first && last.tokens !== null && last.at - first.at >= LEAST_MS && last.tokens > first.tokens)
      out.rate = (last.tokens - first.tokens) * 1000 / (last.at - first.at);
    return out;
  }
}

export const count = (value) => Math.round(value).toLocaleString("en-US");

export function seconds(value) {
  if (value < 0.00995) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 0.095) return `${Math.round(value * 1000)} ms`;
  if (value < 59.95) return `${value.toFixed(value < 9.95 ? 2 : 1)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export const rate = (value) => `${value < 99.5 ? value.toFixed(1) : count(value)} tokens/s`;

// The line under an answer.
export function summary(message) {
  const { numbers = {}, state } = message;
  const parts = [];
  if (state === "stopped") parts.push("stopped");
  if (message.reason === "length") parts.push("cut off at the limit");
  if (numbers.tokens !== undefined) parts.push(`${count(numbers.tokens)} token${numbers.tokens === 1 ? "" : "s"}`);
  if (numbers.rate) parts.push(rate(numbers.rate));
  if (numbers.first_seconds !== undefined) parts.push(`first after ${seconds(numbers.first_seconds)}`);
  if (numbers.cached_tokens)
    parts.push(`${count(numbers.cached_tokens)} of ${count(numbers.prompt_tokens)} prompt tokens reused`);
  return parts.join(" · ");
}
