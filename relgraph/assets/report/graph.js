// The interactive view of the k-NN graph: reads #graph-data and builds everything inside #graph-view. The files
// graph_*.js and this one are one script, in the order of `page.GRAPH`. force-graph moves the view and says when to
// paint; the edges, the images and what is pointed at lie on three canvases.
const host = document.getElementById("graph-view");
const source = document.getElementById("graph-data");
const tip = document.getElementById("tip") ?? document.createElement("div");
const SCALE = 500; // graph units of one unit of the map
const CROWDED = 300; // images from which on edges are limited at first

const state = {
  edges: "student", positions: "student", colour: "label", query: "", group: null, lit: null,
  most: 0, least: null, across: false, names: true,
  current: null, byKeyboard: false, anchor: null, trail: [], pinned: null,
};
let area = { width: 600, height: 400 }; // of the stage, in pixels
let graph, theme, view, groups, marks = [], middles = [], links = [], version = 0;
let stage, edgeCanvas, overlay, printed, card, live, panel, legend, count, table, least;
let matching = new Set(), restTimer = 0, moving = 0, armed = false, touched = false;
const sprite = new Image();

/** Asks force-graph for a frame: a property that is set does. */
const repaint = () => view.linkWidth(1);

function matches(node) {
  const query = state.query.toLowerCase();
  const texts = [labelOf(node), node.file ?? ""];
  const found = texts.some((text) => text.toLowerCase().includes(query)) || String(node.index ?? node.id) === query;
  return found && (state.group === null || groupOf(node) === state.group);
}

/** Applies edges, filter and colours to the canvases, the legend, the table and the data attributes. */
function refresh() {
  groups = findGroups();
  marks = findMarks();
  matching = new Set(graph.nodes.filter(matches));
  middles = findMiddles();
  links = drawnLinks();
  version += 1;
  Object.assign(host.dataset, {
    edges: state.edges, edgesShown: links.length, colour: state.colour, positions: state.positions,
    nodesShown: matching.size,
    edgesStudent: links.filter((link) => link.side === "student").length,
    edgesTeacher: links.filter((link) => link.side === "teacher").length,
  });
  const images = `${counted(matching.size)} of ${many(graph.nodes.length, "image")}`;
  count.textContent = `${images}, ${counted(links.length)} of ${many(chosenLinks().length, "edge")} drawn`;
  fillLegend();
  fillTable();
  paintEdges();
  repaint();
}

function build() {
  stage = el("div", {
    class: "rg-stage", tabindex: 0, role: "application", "aria-describedby": "graph-help",
    "aria-label": `Graph of ${many(graph.nodes.length, "image")}`, keydown: press, click, pointermove: hover,
    pointerleave: () => { armed = false; if (!state.byKeyboard) setCurrent(null); },
    focus: () => { if (stage.matches(":focus-visible") && !state.current) pickMiddle(); },
    blur: () => { armed = false; if (state.byKeyboard) setCurrent(null); },
  });
  edgeCanvas = el("canvas", { class: "rg-edges", "aria-hidden": "true" });
  overlay = el("canvas", { class: "rg-overlay", "aria-hidden": "true" });
  printed = el("canvas", { class: "rg-print", "aria-hidden": "true" });
  card = el("div", { class: "rg-card", hidden: true, "aria-hidden": "true" });
  live = el("p", { class: "visually-hidden", "aria-live": "polite", role: "status" });
  panel = el("div", { class: "rg-panel" });
  legend = el("div", { class: "rg-legend" });
  count = el("p", { class: "rg-count" });
  table = el("details", { class: "rg-table", toggle: fillTable }, el("summary"));
  const zoom = el("div", { class: "rg-zoom", role: "group", "aria-label": "Zoom" },
    button("+", "Zoom in", () => zoomBy(1.4)), button("\u2212", "Zoom out", () => zoomBy(1 / 1.4)),
    button("\u2922", "Show the whole graph", () => fit(calm() ? 0 : 300)));
  const help = "Drag to move, wheel to zoom; on a touch screen two fingers do both, and one scrolls on. With the "
    + "keyboard: \u2190 and \u2192 go round an image\u2019s neighbours, \u2193 steps to one, \u2191 back, Page Up and "
    + "Down go through all images, Enter pins, Esc leaves; then, or with Shift, the arrows move the view, + and \u2212 zoom, 0 "
    + "shows everything.";
  host.replaceChildren(
    el("div", { class: "rg-columns" },
      el("div", { class: "rg-frame" }, stage, zoom, count), el("div", { class: "rg-side" }, controls(), legend)),
    panel, el("p", { class: "note", id: "graph-help" }, help), live, table,
  );
}

function startView() {
  const mount = el("div", { class: "rg-mount", "aria-hidden": "true" });
  stage.append(edgeCanvas, mount, overlay, printed, card);
  measure();
  view = new ForceGraph(mount)
    .width(area.width).height(area.height)
    .enablePointerInteraction(false) // it would paint everything twice; the nearest node is found here
    .enableNodeDrag(false)
    .enableZoomInteraction(zooms)
    .enablePanInteraction((event) => !event.touches)
    .minZoom(REACH[0]).maxZoom(REACH[1])
    .d3Force("link", null).d3Force("charge", null).d3Force("center", null).cooldownTicks(0)
    .onRenderFramePre(followEdges)
    .onRenderFramePost((context, zoom) => { paintNodes(context, zoom); paintOverlay(); })
    .onZoom(moved);
}

function measure() {
  if (stage.clientWidth && stage.clientHeight) area = { width: stage.clientWidth, height: stage.clientHeight };
}

/** A page on paper has one picture of the graph, as it is seen, in the colours of paper. */
function paintForPrint() {
  const context = cleared(printed, area.width, area.height);
  const { width, height } = area;
  context.drawImage(edgeCanvas, -MARGIN * width, -MARGIN * height, (1 + 2 * MARGIN) * width, (1 + 2 * MARGIN) * height);
  for (const canvas of [stage.querySelector(".rg-mount canvas"), overlay]) {
    context.drawImage(canvas, 0, 0, width, height);
  }
}

function watch() {
  const prints = matchMedia("print");
  const retheme = () => {
    readTheme();
    paintEdges();
    repaint();
    paintOverlay();
    if (prints.matches) paintForPrint();
  };
  for (const query of [matchMedia("(prefers-color-scheme: dark)"), prints]) query.addEventListener("change", retheme);
  const attributeFilter = ["data-theme", "class", "style"];
  new MutationObserver(retheme).observe(document.documentElement, { attributes: true, attributeFilter });
  new ResizeObserver(() => {
    if (prints.matches) return;
    measure();
    view.width(area.width).height(area.height);
    if (!touched) fit();
    paintEdges();
    repaint();
  }).observe(stage);
  stage.addEventListener("wheel", (event) => { if (zooms(event)) touched = true; }, { passive: true });
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") armed = touched = true;
    if (!state.byKeyboard) setCurrent(null);
  });
  window.addEventListener("scroll", () => { armed = false; }, { passive: true }); // scrolling past is no zooming
  listenToFingers();
  listenToMaps();
}

function loadSprite() {
  const address = String(graph.sprite?.data ?? "");
  if (!address.startsWith("data:image/")) return void (graph.sprite = null);
  sprite.addEventListener("load", repaint);
  sprite.src = address;
}

function start() {
  graph = readGraph(JSON.parse(source.textContent));
  if (!graph.nodes.length) return host.replaceChildren(el("p", {}, "There are no images to show."));
  if (typeof ForceGraph !== "function" || !el("canvas").getContext("2d")) {
    return host.replaceChildren(el("p", { role: "alert" }, "The graph needs a browser that paints on a canvas."));
  }
  if (graph.nodes.length > CROWDED) state.most = 2;
  matching = new Set(graph.nodes);
  build();
  readTheme();
  startView();
  loadSprite();
  arrange(false);
  refresh();
  fillPanel();
  fit();
  watch();
  host.dataset.ready = "true";
  return undefined;
}

if (host && source) start();
