// The interactive view of the k-NN graph: reads #graph-data and builds everything inside #graph-view.
// force-graph paints nodes and edges and moves the view; the rest of what stands here is plain DOM.
// Data reaches the page as text nodes and canvas pixels only, never as HTML.
(() => {
  "use strict";
  const host = document.getElementById("graph-view");
  const source = document.getElementById("graph-data");
  if (!host || !source) return;

  const SIDES = ["student", "teacher"];
  const OWNER = { student: "Student", teacher: "Teacher" };
  const SCALE = 500; // graph units of one unit of the map
  const DASH = { student: [5, 4], teacher: null }; // pixels
  const WIDTH = { student: 1, teacher: 1.5 }; // pixels, at rest
  const MOVING = { student: 0.7, teacher: 1 }; // pixels: lines of at most one are painted several times as fast
  const REST = 250; // ms without movement after which lines are dashed and have their width
  // Edges of equal style are one path to force-graph, and one path of 16,000 lines is slow to fill: widths that differ
  // by a millionth of a pixel make it paths of so many.
  const PATH = 32;
  const SLOW = 36; // ms of a frame; after three of these in a row half as many edges are drawn while the view moves
  const MOVE = 700; // ms from one map to the other
  // The report's colours of classes: Petroff, 2021, arXiv 2107.02270, the same darker or lighter, then hues.
  const TWENTY = (
    "#3f90da #ffa90e #bd1f01 #832db6 #e76300 #92dadd #a96b59 #b9ac70 #717581 #94a4a2 " +
    "#1a4f85 #ffd78a #f0806a #c79be3 #8a3b00 #3a9296 #5c352a #6f6530 #b9bcc4 #4d5a58"
  ).split(" ");

  // --- the page's elements -------------------------------------------------------------------------------------

  function el(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(key, value);
      else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function lineSample(...sides) {
    const space = "http://www.w3.org/2000/svg";
    const sample = document.createElementNS(space, "svg");
    for (const [key, value] of Object.entries({ width: 36, height: 10, "aria-hidden": "true", class: "rg-line" })) {
      sample.setAttribute(key, value);
    }
    for (const side of sides) {
      const line = document.createElementNS(space, "line");
      for (const [key, value] of Object.entries({ x1: 1, y1: 5, x2: 35, y2: 5, class: `rg-line-${side}` })) {
        line.setAttribute(key, value);
      }
      sample.append(line);
    }
    return sample;
  }

  // --- the graphs ----------------------------------------------------------------------------------------------

  function readGraph(data) {
    const nodes = data.nodes.map((node, number) => ({ ...node, number, x: 0, y: 0 }));
    const byId = new Map(nodes.map((node) => [node.id, node]));
    const given = data.edges ?? {};
    const sides = SIDES.filter((side) => side === "student" || (given[side] ?? []).length > 0);
    const links = {}, near = {}, keys = {};
    for (const side of SIDES) {
      near[side] = nodes.map(() => new Map());
      links[side] = [];
      keys[side] = new Set();
      for (const [from, to, weight] of given[side] ?? []) {
        const link = { source: byId.get(from), target: byId.get(to), weight, side };
        if (!link.source || !link.target || link.source === link.target) continue;
        links[side].push(link);
        keys[side].add(edgeKey(link, nodes.length));
        near[side][link.source.number].set(link.target, weight);
        near[side][link.target.number].set(link.source, weight);
      }
    }
    for (const side of SIDES) {
      const other = keys[side === "student" ? "teacher" : "student"];
      for (const link of links[side]) link.shared = other.has(edgeKey(link, nodes.length));
    }
    const { classes = [], colours = [], layout = "t-SNE", sprite } = data;
    const known = colours.filter((one) => CSS.supports("color", one));
    return { nodes, classes, colours: known, layout, sides, links, near, sprite };
  }

  function edgeKey({ source: { number: a }, target: { number: b } }, count) {
    return Math.min(a, b) * count + Math.max(a, b);
  }

  function sharedNeighbours(node) {
    const others = graph.near.teacher[node.number];
    return [...graph.near.student[node.number].keys()].filter((neighbour) => others.has(neighbour));
  }

  /** Neighbours of a node by the edges that are drawn, the nearest first: [{node, weight, sides}]. */
  function neighbours(node, edges) {
    const found = new Map();
    for (const side of graph.sides) {
      if (edges !== "all" && edges !== "differing" && edges !== side) continue;
      for (const [neighbour, weight] of graph.near[side][node.number]) {
        const known = found.get(neighbour) ?? { node: neighbour, weight: -Infinity, sides: [] };
        known.weight = Math.max(known.weight, weight);
        known.sides.push(side);
        found.set(neighbour, known);
      }
    }
    const listed = [...found.values()].sort((a, b) => b.weight - a.weight);
    return edges === "differing" ? listed.filter((one) => one.sides.length === 1) : listed;
  }

  // --- words ---------------------------------------------------------------------------------------------------

  const className = (number) => (number < 0 ? "unlabelled" : (graph.classes[number] ?? `class ${number}`));
  const labelOf = (node) => node.label || "unlabelled";
  const nameOf = (node) => `Image ${node.index ?? node.id}`;
  const predicted = (node, side) => node[`prediction_${side}`] ?? null;
  const wrong = (node, side) => ![null, node.class].includes(predicted(node, side)) && node.class >= 0;
  const many = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  function predictionText(node, side) {
    const known = node.class >= 0 ? (wrong(node, side) ? " (wrong)" : " (right)") : "";
    return `${className(predicted(node, side))}${known}`;
  }

  function neighbourhoodText(node) {
    const [student, teacher] = SIDES.map((side) => graph.near[side][node.number].size);
    if (graph.sides.length === 1) return many(student, "neighbour");
    const shared = many(sharedNeighbours(node).length, "neighbour");
    return `${shared} in both graphs, of the student's ${student} and the teacher's ${teacher}`;
  }

  function sentence(node) {
    const guesses = SIDES.filter((side) => predicted(node, side) !== null)
      .map((side) => `${OWNER[side]} predicts ${predictionText(node, side)}.`);
    return [`${nameOf(node)}, ${labelOf(node)}.`, ...guesses, `${neighbourhoodText(node)}.`].join(" ");
  }

  // --- colours -------------------------------------------------------------------------------------------------

  function groupColour(number, count) {
    if (count <= TWENTY.length) return TWENTY[number];
    const [hue, lightness] = [((number * 0.618034) % 1) * 360, [45, 60, 52][number % 3]];
    return `hsl(${hue.toFixed(1)} 62% ${lightness}%)`;
  }

  /** The colour that the report's other pictures give a class, if it says so. */
  function classColour(number, count) {
    if (number < 0) return "#8b8f97";
    return graph.colours.length === count ? graph.colours[number] : groupColour(number, count);
  }

  function colourings() {
    const any = (key) => graph.nodes.some((node) => (node[key] ?? null) !== null);
    const options = [["label", "Label", "class"]];
    for (const kind of ["prediction", "community"]) {
      for (const side of graph.sides) {
        const key = `${kind}_${side}`;
        if (any(key)) options.push([key, `${OWNER[side]}'s ${kind}`, key]);
      }
    }
    return options;
  }

  /** Groups of the chosen colouring, key to {key, name, count, colour}. */
  function findGroups() {
    const counts = new Map();
    for (const node of graph.nodes) counts.set(groupOf(node), (counts.get(groupOf(node)) ?? 0) + 1);
    const named = !state.colour.startsWith("community");
    const keys = [...counts.keys()].sort((a, b) => (named ? a - b : counts.get(b) - counts.get(a) || a - b));
    const total = named ? graph.classes.length : keys.length;
    return new Map(keys.map((key, rank) => [key, {
      key,
      name: named ? className(key) : `community ${key}`,
      count: counts.get(key),
      colour: named ? classColour(key, total) : groupColour(rank, total),
    }]));
  }

  const groupOf = (node) => node[state.key] ?? -1;
  const markedWrong = (node) => state.colour.startsWith("prediction") && wrong(node, state.colour.split("_")[1]);

  function readTheme() {
    const style = getComputedStyle(host);
    const read = (name) => style.getPropertyValue(`--rg-${name}`).trim();
    theme = Object.fromEntries(["bg", "fg", "faint", ...SIDES].map((name) => [name, read(name)]));
  }

  // --- state ---------------------------------------------------------------------------------------------------

  const state = {
    edges: "student", positions: "student", colour: "label", key: "class", query: "", group: null,
    current: null, byKeyboard: false, anchor: null, trail: [], pinned: null,
  };
  let graph, theme, view, groups, stage, overlay, card, live, panel, legend, count, table;
  let matching = new Set(), resting = true, restTimer = 0, moving = 0, armed = false, touched = false;
  let aim = { zoom: 1, until: 0 };
  let pace = { last: 0, slow: 0, every: 1 };
  const sprite = new Image();

  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const repaint = () => view.linkWidth(view.linkWidth());

  function matches(node) {
    const text = labelOf(node).toLowerCase().includes(state.query.toLowerCase());
    return text && (state.group === null || groupOf(node) === state.group);
  }

  function drawnLinks() {
    const sides = state.edges === "differing" ? [...graph.sides].reverse() : [state.edges]; // thin lines on top
    const links = sides.flatMap((side) => graph.links[side]);
    return links.filter((link) => (state.edges !== "differing" || !link.shared)
      && (matching.has(link.source) || matching.has(link.target)));
  }

  /** Applies edges, filter and colours to the canvas, the legend, the table and the data attributes. */
  function refresh() {
    groups = findGroups();
    matching = new Set(graph.nodes.filter(matches));
    const links = drawnLinks();
    links.forEach((link, number) => Object.assign(link, { number, path: Math.floor(number / PATH) * 1e-6 }));
    view.graphData({ nodes: graph.nodes, links });
    Object.assign(host.dataset, {
      edges: state.edges, edgesShown: links.length, colour: state.colour, positions: state.positions,
      nodesShown: matching.size,
      edgesStudent: links.filter((link) => link.side === "student").length,
      edgesTeacher: links.filter((link) => link.side === "teacher").length,
    });
    const images = `${matching.size.toLocaleString("en")} of ${many(graph.nodes.length, "image")}`;
    count.textContent = `${images}, ${many(links.length, "edge")}`;
    fillLegend();
    fillTable();
    repaint();
    paintOverlay();
  }

  // --- painting ------------------------------------------------------------------------------------------------

  const breadth = () => Math.max(1, Math.min(stage.clientWidth, stage.clientHeight));
  const fitZoom = () => breadth() / (2.12 * SCALE);
  /** Roughly how far apart neighbouring nodes lie on the screen, in pixels. */
  const spacing = () => (breadth() / Math.sqrt(graph.nodes.length + 1)) * (view.zoom() / fitZoom());
  const radius = () => Math.min(7, Math.max(2.5, 0.22 * spacing()));
  const thumbSide = () => (sprite.naturalWidth && 0.7 * spacing() >= 20 ? Math.min(64, 0.7 * spacing()) : 0);

  let frame = { radius: 3, thumb: 0, box: [0, 0, 0, 0] };

  function beforeFrame(context, zoom) {
    const corner = view.screen2GraphCoords(-40, -40);
    const end = view.screen2GraphCoords(stage.clientWidth + 40, stage.clientHeight + 40);
    frame = { radius: radius() / zoom, thumb: thumbSide() / zoom, box: [corner.x, corner.y, end.x, end.y] };
    context.globalAlpha = state.query || state.group !== null ? 0.5 : 0.3;
  }

  function paintNode(node, context) {
    const [left, top, right, bottom] = frame.box;
    if (node.x < left || node.x > right || node.y < top || node.y > bottom) return;
    const shown = matching.has(node);
    context.globalAlpha = shown ? 1 : 0.35;
    context.fillStyle = shown ? groups.get(groupOf(node)).colour : theme.faint;
    if (frame.thumb && shown) {
      const side = frame.thumb * 1.16;
      context.fillRect(node.x - side / 2, node.y - side / 2, side, side);
      paintThumb(context, node, node.x - frame.thumb / 2, node.y - frame.thumb / 2, frame.thumb);
      if (markedWrong(node)) context.fillRect(node.x + side / 4, node.y - side / 2, side / 4, side / 4);
    } else {
      paintMark(context, node, node.x, node.y, frame.radius);
    }
  }

  function paintMark(context, node, x, y, r) {
    context.beginPath();
    if (markedWrong(node)) context.rect(x - r, y - r, 2 * r, 2 * r);
    else context.arc(x, y, r, 0, 2 * Math.PI);
    context.fill();
  }

  function paintThumb(context, node, x, y, side) {
    const tile = graph.sprite?.tile;
    if (!sprite.naturalWidth || !tile || !node.thumb) return;
    context.imageSmoothingEnabled = side < tile;
    context.drawImage(sprite, node.thumb[0] * tile, node.thumb[1] * tile, tile, tile, x, y, side, side);
  }

  function thumbnail(node, side) {
    if (!graph.sprite) return null;
    const ratio = window.devicePixelRatio || 1;
    const size = { width: side * ratio, height: side * ratio };
    const canvas = el("canvas", { class: "rg-thumb", ...size, "aria-hidden": "true" });
    canvas.style.width = canvas.style.height = `${side}px`;
    const paint = () => paintThumb(canvas.getContext("2d"), node, 0, 0, side * ratio);
    if (sprite.complete) paint();
    else sprite.addEventListener("load", paint, { once: true });
    return canvas;
  }

  const place = (node) => view.graph2ScreenCoords(node.x, node.y);

  /** What follows the pointer or the keyboard stands on a canvas of its own: the edges need not be painted again. */
  function paintOverlay() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    if (overlay.width !== Math.round(width * ratio)) overlay.width = Math.round(width * ratio);
    if (overlay.height !== Math.round(height * ratio)) overlay.height = Math.round(height * ratio);
    const context = overlay.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (state.pinned) {
      context.globalAlpha = 0.78;
      context.fillStyle = theme.bg;
      context.fillRect(0, 0, width, height);
      context.globalAlpha = 1;
      paintNeighbourhood(context, state.pinned, "all", 1);
    }
    if (state.anchor && state.anchor !== state.pinned) paintNeighbourhood(context, state.anchor, state.edges, 0.8);
    if (state.current) paintRing(context, state.current, 4, 3);
    if (state.current) placeCard();
  }

  function paintNeighbourhood(context, node, edges, weight) {
    const found = neighbours(node, edges);
    const from = place(node);
    for (const side of ["teacher", "student"]) { // the dashes of the student's lie on top of the teacher's lines
      context.strokeStyle = theme[side];
      context.lineWidth = weight * (side === "teacher" ? 3 : 1.8);
      context.setLineDash(DASH[side] ?? []);
      context.beginPath();
      for (const one of found.filter((one) => one.sides.includes(side))) {
        const to = place(one.node);
        context.moveTo(from.x, from.y);
        context.lineTo(to.x, to.y);
      }
      context.stroke();
    }
    context.setLineDash([]);
    for (const { node: other } of found) paintDot(context, other, Math.max(4, radius()));
    paintDot(context, node, Math.max(6, radius() + 2));
    paintRing(context, node, 3, 2);
  }

  function paintDot(context, node, r) {
    const { x, y } = place(node);
    const side = thumbSide();
    context.fillStyle = groups.get(groupOf(node)).colour;
    context.strokeStyle = theme.bg;
    context.lineWidth = 1.5;
    if (side) {
      context.fillRect(x - side * 0.58, y - side * 0.58, side * 1.16, side * 1.16);
      return paintThumb(context, node, x - side / 2, y - side / 2, side);
    }
    paintMark(context, node, x, y, r);
    context.stroke();
  }

  function paintRing(context, node, gap, width) {
    const { x, y } = place(node);
    context.strokeStyle = theme.fg;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, Math.max(thumbSide() * 0.75, Math.max(6, radius() + 2)) + gap, 0, 2 * Math.PI);
    context.stroke();
  }

  // --- the current node, the card and the pinned node ----------------------------------------------------------

  function setCurrent(node, { keyboard = false, anchor = node, note = "" } = {}) {
    state.current = node;
    state.anchor = node && anchor;
    state.byKeyboard = keyboard;
    host.dataset.current = node ? node.id : "";
    card.hidden = !node;
    if (node) card.replaceChildren(...cardContent(node));
    if (node && keyboard) {
      bringIntoView(node);
      live.textContent = `${note}${sentence(node)}`;
    }
    paintOverlay();
  }

  function cardContent(node) {
    const rows = SIDES.filter((side) => predicted(node, side) !== null)
      .map((side) => el("div", {}, el("dt", {}, `${OWNER[side]}:`), el("dd", {}, predictionText(node, side))));
    return [thumbnail(node, 72), el("div", {},
      el("strong", {}, labelOf(node)),
      el("div", { class: "rg-muted" }, nameOf(node)),
      rows.length ? el("dl", {}, ...rows) : null,
      el("div", { class: "rg-muted" }, neighbourhoodText(node)),
    )].filter(Boolean);
  }

  /** Puts the card beside its node, away from most of its neighbours, or above or below it where that is too narrow. */
  function placeCard() {
    const { x, y } = place(state.current);
    const [width, height] = [card.offsetWidth, card.offsetHeight];
    const gap = 16 + thumbSide() * 0.7;
    const edge = stage.clientWidth - (stage.clientWidth > 600 ? 52 : 4); // keeps off the buttons where there is room
    const [left, right] = [x - gap - width, x + gap];
    const fits = { left: left >= 4, right: right + width <= edge };
    const near = neighbours(state.current, state.edges);
    const away = near.reduce((sum, one) => sum + Math.sign(place(one.node).x - x), 0) > 0 ? "left" : "right";
    const side = fits[away] ? away : (fits.left ? "left" : "right");
    const clamp = (value, most) => Math.round(Math.max(4, Math.min(value, most)));
    const beside = fits.left || fits.right;
    const above = y > stage.clientHeight / 2 ? y - gap - height : y + gap;
    card.style.left = `${clamp(beside ? { left, right }[side] : x - width / 2, stage.clientWidth - width - 4)}px`;
    card.style.top = `${clamp(beside ? y - height / 2 : above, stage.clientHeight - height - 4)}px`;
  }

  function bringIntoView(node) {
    const { x, y } = place(node);
    const margin = 40;
    if (x > margin && y > margin && x < stage.clientWidth - margin && y < stage.clientHeight - margin) return;
    touched = true;
    view.centerAt(node.x, node.y, calm() ? 0 : 300);
  }

  function pin(node) {
    state.pinned = node;
    host.dataset.pinned = node ? node.id : "";
    fillPanel();
    paintOverlay();
    live.textContent = node ? `Pinned. ${sentence(node)}` : "Nothing is pinned.";
  }

  function fillPanel() {
    const node = state.pinned;
    if (!node) {
      const hint = "Click an image in the graph, or press Enter on it, to see its neighbours here.";
      return panel.replaceChildren(el("p", { class: "rg-muted" }, hint));
    }
    const shared = new Set(sharedNeighbours(node));
    const lists = graph.sides.flatMap((side) => {
      const found = neighbours(node, side);
      return [
        el("h4", {}, `${OWNER[side]}'s neighbours (${found.length})`),
        el("ul", { class: "rg-neighbours" }, ...found.map((one) => neighbourItem(one, shared.has(one.node)))),
      ];
    });
    panel.replaceChildren(
      el("div", { class: "rg-pinned" }, ...cardContent(node)),
      el("button", { type: "button", click: () => { pin(null); stage.focus({ preventScroll: true }); } }, "Unpin"),
      ...lists,
    );
  }

  function neighbourItem({ node, weight }, shared) {
    const words = `${labelOf(node)} ${Number(weight).toFixed(2)}${shared ? ", both" : ""}`;
    const show = () => {
      setCurrent(node, { keyboard: true });
      pin(node);
      panel.querySelector("button")?.focus({ preventScroll: true });
    };
    return el("li", {}, el("button", {
      type: "button", class: shared ? "rg-shared" : null, click: show,
      title: `${nameOf(node)}, ${labelOf(node)}, correlation ${weight}`, "aria-label": `Pin ${nameOf(node)}, ${words}`,
    }, thumbnail(node, 40), el("span", {}, words)));
  }

  // --- pointer and keyboard ------------------------------------------------------------------------------------

  function nearestNode(x, y, reach) {
    let [best, least] = [null, reach * reach];
    for (const node of matching) {
      const at = place(node);
      const far = (at.x - x) ** 2 + (at.y - y) ** 2;
      if (far < least) [best, least] = [node, far];
    }
    return best;
  }

  function pointed(event) {
    const box = stage.getBoundingClientRect();
    const reach = Math.max(event.pointerType === "touch" ? 20 : 10, thumbSide() * 0.6);
    return nearestNode(event.clientX - box.left - stage.clientLeft, event.clientY - box.top - stage.clientTop, reach);
  }

  function hover(event) {
    if (event.movementX || event.movementY) armed = true;
    if (event.buttons || event.pointerType === "touch") return;
    const node = pointed(event);
    if (node !== state.current && (node || !state.byKeyboard)) setCurrent(node);
    stage.classList.toggle("rg-pointing", node !== null);
  }

  function click(event) {
    const node = pointed(event);
    setCurrent(node);
    pin(node === state.pinned ? null : node);
    card.hidden = node === state.pinned; // the panel tells the same, and the neighbours stay in sight
  }

  function zoomBy(factor) {
    touched = true;
    const from = performance.now() < aim.until ? aim.zoom : view.zoom(); // a second press counts while the first moves
    aim = { zoom: Math.min(60, Math.max(0.1, from * factor)), until: performance.now() + 150 };
    const duration = calm() ? 0 : 150;
    if (state.byKeyboard && state.current) view.centerAt(state.current.x, state.current.y, duration);
    view.zoom(aim.zoom, duration);
  }

  /** Whether a turn of the wheel is meant for the graph: not while the page scrolls past under the pointer. */
  const zooms = (event) => event.ctrlKey || armed || document.activeElement === stage;

  function panBy(x, y) {
    touched = true;
    const { x: middleX, y: middleY } = view.centerAt();
    view.centerAt(middleX + x / view.zoom(), middleY + y / view.zoom());
  }

  function fit(duration = 0) {
    touched = false;
    view.centerAt(0, 0, duration);
    view.zoom(fitZoom(), duration);
  }

  function stepNeighbour(step) {
    const found = neighbours(state.anchor, state.edges);
    if (!found.length) return (live.textContent = "No neighbours by these edges.");
    const at = found.findIndex((one) => one.node === state.current);
    const next = at < 0 ? (step > 0 ? 0 : found.length - 1) : (at + step + found.length) % found.length;
    const { node, weight, sides } = found[next];
    const whose = sides.length === 2 ? "both graphs" : `the ${sides[0]}'s graph`;
    const which = `Neighbour ${next + 1} of ${found.length} of ${nameOf(state.anchor)}`;
    const note = `${which}, correlation ${Number(weight).toFixed(2)}, in ${whose}. `;
    return setCurrent(node, { keyboard: true, anchor: state.anchor, note });
  }

  function stepInto() {
    if (state.current === state.anchor) return;
    state.trail.push(state.anchor);
    setCurrent(state.current, { keyboard: true, note: "Now at this image. " });
  }

  function stepBack() {
    const to = state.current !== state.anchor ? state.anchor : state.trail.pop();
    if (to) setCurrent(to, { keyboard: true, note: "Back. " });
  }

  function stepList(step) {
    const listed = [...matching];
    const at = listed.indexOf(state.current);
    const next = listed[at < 0 ? 0 : (at + step + listed.length) % listed.length];
    if (next) setCurrent(next, { keyboard: true });
  }

  function enter() {
    if (state.current) return pin(state.current === state.pinned ? null : state.current);
    return pickMiddle();
  }

  function pickMiddle() {
    const node = state.pinned ?? nearestNode(stage.clientWidth / 2, stage.clientHeight / 2, Infinity);
    if (node) setCurrent(node, { keyboard: true });
  }

  function leave() {
    if (state.current) setCurrent(null);
    else if (state.pinned) pin(null);
  }

  const PAN = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] };
  const WALK = {
    ArrowLeft: () => stepNeighbour(-1), ArrowRight: () => stepNeighbour(1), ArrowUp: stepBack, ArrowDown: stepInto,
  };
  const KEYS = {
    "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4), "0": () => fit(calm() ? 0 : 300),
    Enter: enter, " ": enter, Escape: leave, PageDown: () => stepList(1), PageUp: () => stepList(-1),
  };

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== stage) return;
    const walks = state.current && !event.shiftKey;
    const act = PAN[event.key] ? (walks ? WALK[event.key] : () => panBy(...PAN[event.key])) : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // --- moving between the maps ---------------------------------------------------------------------------------

  function target(node) {
    return [(node[`x_${state.positions}`] ?? 0) * SCALE, -(node[`y_${state.positions}`] ?? 0) * SCALE]; // y upwards
  }

  function arrange(animated) {
    cancelAnimationFrame(moving);
    const ways = graph.nodes.map((node) => [node, node.x, node.y, ...target(node)]);
    const start = performance.now();
    const advance = (now) => {
      const part = animated && !calm() ? Math.min(1, Math.max(0, (now - start) / MOVE)) : 1;
      const eased = part * part * (3 - 2 * part);
      for (const [node, x, y, toX, toY] of ways) {
        node.x = x + (toX - x) * eased;
        node.y = y + (toY - y) * eased;
      }
      host.dataset.moving = part < 1;
      unrest();
      repaint();
      if (part < 1) moving = requestAnimationFrame(advance);
    };
    advance(start);
  }

  function unrest() {
    if (resting) requestAnimationFrame(keepPace);
    resting = false;
    clearTimeout(restTimer);
    restTimer = setTimeout(() => { resting = true; repaint(); }, REST);
  }

  /** Draws fewer edges, every second to every eighth, on a machine that cannot move all of them fluidly. */
  function keepPace(now) {
    if (resting) return void (pace = { last: 0, slow: 0, every: Math.max(1, pace.every / 2) });
    const slow = pace.last && now - pace.last > SLOW ? pace.slow + 1 : 0;
    pace = slow < 3 ? { ...pace, last: now, slow } : { last: now, slow: 0, every: Math.min(8, pace.every * 2) };
    host.dataset.every = pace.every;
    return requestAnimationFrame(keepPace);
  }

  // --- controls, legend, table ---------------------------------------------------------------------------------

  function radios(title, name, options, choose) {
    const group = `graph-${name}`;
    const inputs = options.map(([value, text, sample]) => el("label", {},
      el("input", { type: "radio", name: group, value, checked: state[name] === value, change: () => choose(value) }),
      sample ?? null, text));
    return el("fieldset", {}, el("legend", {}, title), el("div", { class: "rg-choices" }, ...inputs));
  }

  function controls() {
    const two = graph.sides.length === 2;
    const edges = [
      ["student", "student's", lineSample("student")], ["teacher", "teacher's", lineSample("teacher")],
      ["differing", "only differing"],
    ];
    const maps = [["student", "student's"], ["teacher", "teacher's"]];
    const colours = el("select", { name: "graph-colour", change: (event) => chooseColour(event.target.value) },
      ...colourings().map(([value, text]) => el("option", { value }, text)));
    const names = [...new Set(graph.nodes.map(labelOf))].sort();
    const search = el("input", {
      type: "search", name: "graph-search", list: "graph-classes", placeholder: "all classes", autocomplete: "off",
      input: (event) => { state.query = event.target.value.trim(); setCurrent(null); refresh(); },
    });
    return el("div", { class: "rg-controls" },
      two ? radios("Edges", "edges", edges, (value) => { state.edges = value; refresh(); }) : null,
      two ? radios(`Map (${graph.layout})`, "positions", maps, choosePositions) : null,
      el("label", { class: "rg-field" }, "Colour", colours),
      el("label", { class: "rg-field" }, "Find class", search),
      el("datalist", { id: "graph-classes" }, ...names.map((name) => el("option", { value: name }))),
      count,
    );
  }

  function choosePositions(value) {
    state.positions = value;
    host.dataset.positions = value;
    arrange(true);
  }

  function chooseColour(value) {
    state.colour = value;
    state.key = value === "label" ? "class" : value;
    state.group = null;
    refresh();
  }

  function fillLegend() {
    const two = graph.sides.length === 2;
    const not = { student: ", not the teacher's", teacher: ", not the student's" };
    const lines = graph.sides.map((side) => el("li", {}, lineSample(side),
      `${side}'s edge${state.edges === "differing" ? not[side] : ""}`));
    if (two) lines.push(el("li", {}, lineSample("teacher", "student"), "in both graphs (pinned image)"));
    const shape = (text, kind) => el("li", {}, el("span", { class: `rg-dot rg-plain ${kind}` }), text);
    const shapes = state.colour.startsWith("prediction") ? [shape("right", ""), shape("wrong", "rg-square")] : [];
    const old = legend.querySelector(".rg-groups")?.scrollTop ?? 0;
    const list = el("ul", { class: "rg-groups" }, ...[...groups.values()].map(groupItem));
    legend.replaceChildren(el("h3", {}, "Legend"), el("ul", { class: "rg-lines" }, ...lines, ...shapes), list);
    list.scrollTop = old;
  }

  function groupItem(group) {
    const dot = el("span", { class: "rg-dot" });
    dot.style.backgroundColor = group.colour;
    const choose = () => {
      state.group = state.group === group.key ? null : group.key;
      setCurrent(null);
      refresh();
      legend.querySelector(`[data-key="${group.key}"]`)?.focus({ preventScroll: true });
    };
    const pressed = String(state.group === group.key);
    return el("li", {}, el("button", { type: "button", "data-key": group.key, "aria-pressed": pressed, click: choose },
      dot, el("span", { class: "rg-name" }, group.name), el("span", { class: "rg-muted" }, String(group.count))));
  }

  function fillTable() {
    const summary = table.firstElementChild;
    summary.textContent = `The images as a table (${matching.size.toLocaleString("en")})`;
    if (!table.open) return table.replaceChildren(summary);
    const columns = [["Label", labelOf]];
    for (const side of graph.sides) {
      if (graph.nodes.some((node) => predicted(node, side) !== null)) {
        columns.push([`${OWNER[side]} predicts`, (node) => predictionText(node, side)]);
      }
      columns.push([`${OWNER[side]}'s community`, (node) => String(node[`community_${side}`])]);
      columns.push([`${OWNER[side]}'s neighbours`, (node) => String(graph.near[side][node.number].size)]);
    }
    if (graph.sides.length === 2) columns.push(["In both graphs", (node) => String(sharedNeighbours(node).length)]);
    const titles = ["Image", ...columns.map(([title]) => title)];
    const head = el("tr", {}, ...titles.map((title) => el("th", { scope: "col" }, title)));
    const rows = [...matching].map((node) => el("tr", {}, el("th", { scope: "row" }, pinButton(node)),
      ...columns.map(([, text]) => el("td", {}, text(node)))));
    const caption = el("caption", {}, "Images of the graph; the button pins one.");
    const whole = el("table", {}, caption, el("thead", {}, head), el("tbody", {}, ...rows));
    const box = { class: "rg-scroll", tabindex: 0, role: "region", "aria-label": "Images of the graph" };
    return table.replaceChildren(summary, el("div", box, whole));
  }

  function pinButton(node) {
    const show = () => { setCurrent(node, { keyboard: true }); pin(node); };
    const number = String(node.index ?? node.id);
    return el("button", { type: "button", "aria-label": `Pin ${nameOf(node)}`, click: show }, number);
  }

  // --- putting it together -------------------------------------------------------------------------------------

  function build() {
    const button = (text, title, act) => el("button", { type: "button", title, "aria-label": title, click: act }, text);
    stage = el("div", {
      class: "rg-stage", tabindex: 0, role: "application", "aria-describedby": "graph-help",
      "aria-label": `Graph of ${many(graph.nodes.length, "image")}`, keydown: key, click, pointermove: hover,
      pointerleave: () => { armed = false; if (!state.byKeyboard) setCurrent(null); },
      focus: () => { if (stage.matches(":focus-visible") && !state.current) pickMiddle(); },
      blur: () => { armed = false; if (state.byKeyboard) setCurrent(null); },
    });
    overlay = el("canvas", { class: "rg-overlay", "aria-hidden": "true" });
    card = el("div", { class: "rg-card", hidden: true, "aria-hidden": "true" });
    live = el("p", { class: "rg-live", "aria-live": "polite", role: "status" });
    panel = el("div", { class: "rg-panel" });
    legend = el("div", { class: "rg-legend" });
    count = el("p", { class: "rg-count" });
    table = el("details", { class: "rg-table", toggle: fillTable }, el("summary"));
    const zoom = el("div", { class: "rg-zoom", role: "group", "aria-label": "Zoom" },
      button("+", "Zoom in", () => zoomBy(1.4)), button("\u2212", "Zoom out", () => zoomBy(1 / 1.4)),
      button("\u2922", "Show the whole graph", () => fit(calm() ? 0 : 300)));
    const help = "Drag to move; wheel, pinch, + and \u2212 zoom, 0 shows everything. With the keyboard: "
      + "\u2190 and \u2192 go round an image\u2019s neighbours, \u2193 steps to one, \u2191 back, Page Up and Down go "
      + "through all images, Enter pins, Esc leaves; then, or with Shift, the arrows move the view.";
    host.replaceChildren(
      controls(),
      el("div", { class: "rg-columns" },
        el("div", { class: "rg-frame" }, stage, zoom),
        el("div", { class: "rg-side" }, legend, el("h3", {}, "Pinned image"), panel)),
      el("p", { class: "rg-muted rg-help", id: "graph-help" }, help),
      live, table,
    );
  }

  function startView() {
    const mount = el("div", { class: "rg-mount", "aria-hidden": "true" });
    stage.append(mount, overlay, card);
    view = new ForceGraph(mount)
      .width(stage.clientWidth || 600).height(stage.clientHeight || 400)
      .enablePointerInteraction(false) // it would paint everything twice; the nearest node is found here
      .enableNodeDrag(false)
      .enableZoomInteraction(zooms)
      .minZoom(0.1).maxZoom(60)
      .d3Force("link", null).d3Force("charge", null).d3Force("center", null).cooldownTicks(0)
      .linkVisibility((link) => resting || link.number % pace.every === 0)
      .linkColor((link) => theme[link.side]).linkWidth((link) => (resting ? WIDTH : MOVING)[link.side] - link.path)
      .linkLineDash((link) => (resting ? (DASH[link.side]?.map((length) => length / view.zoom()) ?? null) : null))
      .nodeCanvasObject(paintNode)
      .onRenderFramePre(beforeFrame)
      .onRenderFramePost((context) => { context.globalAlpha = 1; paintOverlay(); })
      .onZoom(moved);
  }

  function moved({ k, x, y }) {
    if (!view) return;
    unrest();
    host.dataset.zoom = (k * SCALE).toFixed(2);
    host.dataset.centre = `${(x / SCALE).toFixed(4)} ${(-y / SCALE).toFixed(4)}`;
  }

  function watch() {
    const retheme = () => { readTheme(); repaint(); paintOverlay(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme);
    const attributeFilter = ["data-theme", "class", "style"];
    new MutationObserver(retheme).observe(document.documentElement, { attributes: true, attributeFilter });
    new ResizeObserver(() => {
      if (!stage.clientWidth || !stage.clientHeight) return;
      view.width(stage.clientWidth).height(stage.clientHeight);
      if (!touched) fit();
      repaint();
    }).observe(stage);
    stage.addEventListener("wheel", (event) => { if (zooms(event)) touched = true; }, { passive: true });
    stage.addEventListener("pointerdown", () => { armed = touched = true; if (!state.byKeyboard) setCurrent(null); });
    window.addEventListener("scroll", () => { armed = false; }, { passive: true }); // scrolling past is no zooming
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

  start();
})();
