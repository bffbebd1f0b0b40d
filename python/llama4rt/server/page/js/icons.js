// The page's own small drawings: strokes on a grid of 24.

const PATHS = {
  attach: "M20 11.5 12.2 19a5 5 0 0 1-7-7l8-7.9a3.4 3.4 0 0 1 4.8 4.8l-7.9 7.8a1.7 1.7 0 0 1-2.4-2.4l7-6.9",
  back: "m15 5-7 7 7 7",
  branch: "M6 5v14M6 14h4c5 0 7-3 7-8M13.5 8.5 17 5l3.5 3.5",
  check: "m5 12.5 4.5 4.5L19 7",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  down: "m6 9 6 7 6-7M12 16V4",
  edit: "m5 19 .8-4L16 4.8l3.2 3.2L9 18.2zM13.5 7.5l3 3",
  file: "M7 3h7l5 5v13H7zM14 3v5h5",
  forth: "m9 5 7 7-7 7",
  keyboard: "M3 7h18v11H3zM7 11h.01M11 11h.01M15 11h.01M18 11h.01M8 14.5h8",
  menu: "M4 7h16M4 12h16M4 17h16",
  more: "M8 5l8 7-8 7M4 5v14",
  retry: "M19 7v5h-5M18.5 12a7 7 0 1 0-1.5 5",
  settings: "M4 8h9M18 8h2M4 16h2M11 16h9M15.5 5.8v4.4M8.5 13.8v4.4",
  tools: "M9 4C6 4 6.5 8 6.5 9.5S5 12 4 12c1 0 2.5 1 2.5 2.5S6 20 9 20M15 4c3 0 2.5 4 2.5 5.5S19 12 20 12"
    + "c-1 0-2.5 1-2.5 2.5S18 20 15 20",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
