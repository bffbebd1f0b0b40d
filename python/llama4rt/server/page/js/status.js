// The page at /status: asks for the figures every two seconds and draws what changed. The figures are those of /metrics
// and ask for the same key.

import { ask } from "./api.js";
import { $ } from "./dom.js";
import { change, recall } from "./settings.js";
import { histogramCard, series, throughputChart } from "./status_charts.js";
import { showExperts } from "./status_experts.js";
import { bytes, cacheCard, memoryCard, requestsCard, tiles } from "./status_cards.js";
import { count, seconds } from "./numbers.js";

const EVERY_MS = 2000;
const HISTORY = 150; // points: five minutes

const history = [];
let isPaused = false;
let timer = 0;

async function look() {
  clearTimeout(timer);
  try {
    const figures = await (await ask("status.json")).json();
    $("key-form").hidden = true;
    $("cards").hidden = false;
    take(figures);
  } catch (error) {
    if (error.status === 401) askForKey();
    else say(error.message, "wrong");
  }
  if (!isPaused && !document.hidden) timer = setTimeout(look, EVERY_MS);
}

function take(figures) {
  // A server that was started anew counts from nothing.
  if (history.length && figures.uptime_seconds < history.at(-1).uptime_seconds) history.length = 0;
  history.push(figures);
  if (history.length > HISTORY) history.shift();
  const before = history.at(-2) ?? null;
  say(figures.draining ? "shutting down" : "running", figures.draining ? "wrong" : "");
  $("about").textContent = [figures.models.join(", "), `version ${figures.version}`,
    `up ${seconds(figures.uptime_seconds)}`, `context ${count(figures.max_model_len)} tokens`].join(" · ");
  $("tiles").replaceChildren(...tiles(figures, before));
  put("throughput", throughputChart(series(history), $("throughput").clientWidth - 40));
  put("cache", cacheCard(figures));
  put("requests", requestsCard(figures));
  put("first", histogramCard(figures.histograms.time_to_first_token, seconds));
  put("between", histogramCard(figures.histograms.inter_token_latency, seconds));
  put("whole", histogramCard(figures.histograms.e2e_latency, seconds));
  put("memory", memoryCard(figures.engine.bytes, bytes));
  showExperts($("experts"), figures.expert_tokens);
}

function put(id, children) {
  $(id).replaceChildren($(id).firstElementChild, ...children);
}

function say(text, kind) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").className = kind;
}

function askForKey() {
  say("asks for a key", "still");
  $("cards").hidden = true;
  if ($("key-form").hidden) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  isPaused = true;
}

recall();
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change({ key: $("key").value.trim() });
  isPaused = false;
  look();
});
$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").textContent = isPaused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) { clearTimeout(timer); say("paused", "still"); } else look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !isPaused) look(); });
look().then(() => { document.documentElement.dataset.ready = ""; }); // for tests: figures, or why there are none
