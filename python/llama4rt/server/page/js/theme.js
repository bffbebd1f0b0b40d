// The chosen look, before anything is painted: a script of the old kind, which runs where it stands.
"use strict";
try {
  const theme = JSON.parse(localStorage.getItem("llama4rt.settings") ?? "{}").theme;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* a private window, or somebody else's value */ }
