// Elements of the graph view. What data says reaches the page as text nodes and canvas pixels only, never as HTML.
function made(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const el = (name, attributes = {}, ...children) => made(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  made(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
const muted = (text) => el("div", { class: "rg-muted" }, text);

function button(text, title, act) {
  return el("button", { type: "button", title, "aria-label": title, click: act }, text);
}

function lineSample(...sides) {
  const lines = sides.map((side) => svg("line", { x1: 1, y1: 5, x2: 35, y2: 5, class: `rg-line-${side}` }));
  return svg("svg", { width: 36, height: 10, "aria-hidden": "true", class: "rg-line" }, ...lines);
}

function markSample(colour, shape) {
  const points = graph.shapes[shape];
  const fill = { fill: colour };
  const corners = { points: points?.join(" "), ...fill };
  const mark = points?.length ? svg("polygon", corners) : svg("circle", { r: 1, ...fill });
  const box = { viewBox: "-1.3 -1.3 2.6 2.6", width: 14, height: 14 };
  return svg("svg", { ...box, "aria-hidden": "true", class: "rg-dot" }, mark);
}

/** Fits a canvas to its place on the screen and returns what draws on it in pixels of the page. */
function cleared(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
