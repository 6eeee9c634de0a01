// What is painted over the edges: marks or thumbnails of the images, names of classes, and what is pointed at.
const ROOM = 1.25; // sides of a thumbnail from one to the next: they do not lie on each other
let placed = { key: "", nodes: new Set() }; // the images that are thumbnails at the present zoom

const breadth = () => Math.max(1, Math.min(area.width, area.height));
const fitZoom = () => breadth() / (2.12 * SCALE);
/** Roughly how far apart neighbouring nodes lie on the screen, in pixels. */
const spacing = () => (breadth() / Math.sqrt(graph.nodes.length + 1)) * (view.zoom() / fitZoom());
const radius = () => Math.min(6, Math.max(2.75, 0.2 * spacing()));
const thumbSide = () => (sprite.naturalWidth && 0.7 * spacing() >= 30 ? Math.min(64, 0.7 * spacing()) : 0);
const place = (node) => view.graph2ScreenCoords(node.x, node.y);

/** Those of the nodes, first come first served, that have so much room around them. */
function apart(nodes, room) {
  const cells = new Map(), found = new Set();
  for (const node of nodes) {
    const [column, row] = [Math.floor(node.x / room), Math.floor(node.y / room)];
    const near = [-1, 0, 1].flatMap((i) => [-1, 0, 1].map((j) => cells.get(`${column + i} ${row + j}`)));
    if (near.some((other) => other && Math.abs(other.x - node.x) < room && Math.abs(other.y - node.y) < room)) continue;
    cells.set(`${column} ${row}`, node);
    found.add(node);
  }
  return found;
}

function placeThumbs(side) {
  const key = `${side.toFixed(3)} ${state.positions} ${host.dataset.moving} ${version}`;
  if (key !== placed.key) placed = { key, nodes: side ? apart(matching, side * ROOM) : new Set() };
  return placed.nodes;
}

function paintNodes(context, zoom) {
  const [r, side] = [radius() / zoom, thumbSide() / zoom];
  const thumbs = placeThumbs(side);
  const corner = view.screen2GraphCoords(-40, -40);
  const end = view.screen2GraphCoords(area.width + 40, area.height + 40);
  const inside = (node) => node.x > corner.x && node.x < end.x && node.y > corner.y && node.y < end.y;
  const paint = (nodes, colour, shape) => {
    context.fillStyle = colour;
    context.beginPath();
    for (const node of nodes) if (inside(node)) addMark(context, shape, node.x, node.y, r);
    context.fill();
  };
  context.globalAlpha = 0.45;
  paint(graph.nodes.filter((node) => !matching.has(node)), theme.faint, "circle");
  context.globalAlpha = 1;
  for (const { colour, shape, nodes } of marks) {
    paint(nodes.filter((node) => matching.has(node) && !thumbs.has(node)), colour, shape);
  }
  for (const node of thumbs) if (inside(node)) paintThumb(context, node, node.x, node.y, side, r);
}

/** A thumbnail in a frame of its colour, with its mark in a corner. */
function paintThumb(context, node, x, y, side, r) {
  context.fillStyle = node.mark.colour;
  context.fillRect(x - side * 0.56, y - side * 0.56, side * 1.12, side * 1.12);
  paintImage(context, node, x - side / 2, y - side / 2, side);
  context.fillStyle = node.mark.colour;
  context.strokeStyle = theme.surface;
  context.lineWidth = r / 4;
  context.beginPath();
  addMark(context, node.mark.shape, x - side / 2, y - side / 2, r);
  context.stroke();
  context.fill();
}

function paintImage(context, node, x, y, side) {
  const tile = graph.sprite?.tile;
  if (!sprite.naturalWidth || !tile || !node.thumb) return;
  context.imageSmoothingEnabled = side < tile;
  context.drawImage(sprite, node.thumb[0] * tile, node.thumb[1] * tile, tile, tile, x, y, side, side);
}

function thumbnail(node, side) {
  if (!graph.sprite) return null;
  const ratio = window.devicePixelRatio || 1;
  const canvas = el("canvas", { class: "rg-thumb", width: side * ratio, height: side * ratio, "aria-hidden": "true" });
  canvas.style.width = canvas.style.height = `${side}px`;
  const paint = () => paintImage(canvas.getContext("2d"), node, 0, 0, side * ratio);
  if (sprite.complete) paint();
  else sprite.addEventListener("load", paint, { once: true });
  return canvas;
}

/** What follows the pointer or the keyboard stands on a canvas of its own, above the nodes. */
function paintOverlay() {
  const context = cleared(overlay, area.width, area.height);
  const veil = (strength) => {
    context.globalAlpha = strength;
    context.fillStyle = theme.surface;
    context.fillRect(0, 0, area.width, area.height);
    context.globalAlpha = 1;
  };
  const pointed = state.current && groups.size > graph.colours.length ? groupOf(state.current) : null;
  const lit = state.lit ?? pointed; // among many classes the one that is pointed at stands out
  if (lit !== null && !state.pinned) {
    veil(0.7);
    for (const node of matching) if (groupOf(node) === lit) paintDot(context, node, radius() + 2, false);
  }
  if (state.names && !state.pinned) paintNames(context);
  if (state.pinned) {
    veil(0.8);
    paintNeighbourhood(context, state.pinned, "all", 1);
  }
  if (state.anchor && state.anchor !== state.pinned) paintNeighbourhood(context, state.anchor, state.edges, 0.8);
  if (state.current) {
    paintRing(context, state.current, 4, 3);
    placeCard();
  }
}

function paintNeighbourhood(context, node, edges, weight) {
  const found = neighbours(node, edges);
  const from = place(node);
  for (const side of ["teacher", "student"]) { // the dashes of the student's lie on top of the teacher's lines
    context.strokeStyle = theme[side];
    context.lineWidth = weight * (side === "teacher" ? 3 : 1.8);
    context.setLineDash(DASH[side]);
    context.beginPath();
    for (const one of found.filter(({ links }) => links[side])) {
      const to = place(one.node);
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
    }
    context.stroke();
  }
  context.setLineDash([]);
  const others = found.map((one) => one.node);
  const thumbs = apart([node, ...others], (thumbSide() * ROOM) / view.zoom());
  for (const other of others) paintDot(context, other, Math.max(4, radius()), thumbs.has(other));
  paintDot(context, node, Math.max(6, radius() + 2), true);
  paintRing(context, node, 3, 2);
}

function paintDot(context, node, r, asThumb) {
  const { x, y } = place(node);
  if (asThumb && thumbSide()) return paintThumb(context, node, x, y, thumbSide(), r / 1.5);
  context.fillStyle = node.mark.colour;
  context.strokeStyle = theme.surface;
  context.lineWidth = 1.5;
  context.beginPath();
  addMark(context, node.mark.shape, x, y, r);
  context.fill();
  return context.stroke();
}

function paintRing(context, node, gap, width) {
  const { x, y } = place(node);
  context.strokeStyle = theme.text;
  context.lineWidth = width;
  context.beginPath();
  context.arc(x, y, Math.max(thumbSide() * 0.75, Math.max(6, radius() + 2)) + gap, 0, 2 * Math.PI);
  context.stroke();
}

/** Names of the classes at the medians of their images, largest class first, where they hide no other name. */
function paintNames(context) {
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  const taken = [];
  for (const { name, x, y } of middles) {
    const at = view.graph2ScreenCoords(x, y);
    const half = context.measureText(name).width / 2 + 4;
    const hidden = taken.some((other) => Math.abs(other.x - at.x) < other.half + half && Math.abs(other.y - at.y) < 18);
    if (hidden || at.x < half || at.x > area.width - half || at.y < 10 || at.y > area.height - 10) continue;
    taken.push({ ...at, half });
    context.strokeStyle = theme.surface;
    context.lineWidth = 4;
    context.strokeText(name, at.x, at.y);
    context.fillStyle = theme.text;
    context.fillText(name, at.x, at.y);
  }
}

/** Where the classes stand that are shown: [{name, x, y}], those of most images first. */
function findMiddles() {
  const members = new Map();
  for (const node of matching) if (node.class >= 0) members.set(node.class, [...(members.get(node.class) ?? []), node]);
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return [...members].sort(([, a], [, b]) => b.length - a.length).map(([number, nodes]) => {
    const places = nodes.map(target);
    const name = className(number);
    return { name: name.length > 24 ? `${name.slice(0, 23)}\u2026` : name,
      x: median(places.map(([x]) => x)), y: median(places.map(([, y]) => y)) };
  });
}
