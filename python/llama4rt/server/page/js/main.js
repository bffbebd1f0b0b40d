// The chat page. Everything that the first view does not need is loaded when it is used.

import { chat } from "./chat.js";
import { fill, send, startComposer } from "./composer.js";
import { $ } from "./dom.js";
import { startHead } from "./head.js";
import { startKeys } from "./keys.js";
import { recall } from "./settings.js";
import { startSidebar } from "./sidebar.js";
import { startTranscript } from "./transcript.js";

recall();
startTranscript((text) => { fill(text); send(); });
startComposer();
startSidebar();
startKeys();
startHead();
chat.reopen();
addEventListener("pagehide", () => {
  for (const { conversation } of chat.running.values()) chat.keep(conversation, true);
});
if (!window.matchMedia("(max-width: 60rem)").matches) $("text").focus();
document.documentElement.dataset.ready = ""; // for tests: all of it listens
