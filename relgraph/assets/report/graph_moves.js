// Pointer, fingers and keyboard; and the way from one map to the other.
const REST = 180; // ms without movement after which edges are painted anew
const MOVE = 700; // ms from one map to the other
const REACH = [0.1, 60]; // of the zoom
let aim = { zoom: 1, until: 0 };

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const bounded = (zoom) => Math.min(REACH[1], Math.max(REACH[0], zoom));

function nearestNode(x, y, reach) {
  let [best, least] = [null, reach * reach];
  for (const node of matching) {
    const at = place(node);
    const far = (at.x - x) ** 2 + (at.y - y) ** 2;
    if (far < least) [best, least] = [node, far];
  }
  return best;
}

function onStage({ clientX, clientY }) {
  const box = stage.getBoundingClientRect();
  return [clientX - box.left - stage.clientLeft, clientY - box.top - stage.clientTop];
}

function pointed(event) {
  return nearestNode(...onStage(event), Math.max(event.pointerType === "touch" ? 20 : 10, thumbSide() * 0.6));
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

/** One finger scrolls the page past the graph; two fingers move and zoom it. */
function listenToFingers() {
  let last = null;
  const read = ([one, other]) => {
    const [[ax, ay], [bx, by]] = [onStage(one), onStage(other)];
    return { x: (ax + bx) / 2, y: (ay + by) / 2, far: Math.max(1, Math.hypot(ax - bx, ay - by)) };
  };
  const listen = (name, act) => stage.addEventListener(name, act, { passive: false });
  listen("touchstart", (event) => {
    last = event.touches.length === 2 ? read(event.touches) : null;
    if (last) event.preventDefault();
  });
  listen("touchmove", (event) => {
    if (!last || event.touches.length !== 2) return;
    event.preventDefault();
    const now = read(event.touches);
    const held = view.screen2GraphCoords(last.x, last.y);
    const zoom = bounded((view.zoom() * now.far) / last.far);
    touched = true;
    view.zoom(zoom);
    view.centerAt(held.x - (now.x - area.width / 2) / zoom, held.y - (now.y - area.height / 2) / zoom);
    last = now;
  });
  listen("touchend", () => { last = null; });
}

function zoomBy(factor) {
  touched = true;
  const from = performance.now() < aim.until ? aim.zoom : view.zoom(); // a second press counts while the first moves
  aim = { zoom: bounded(from * factor), until: performance.now() + 150 };
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
  if (!found.length) return void (live.textContent = "No neighbours by these edges.");
  const at = found.findIndex((one) => one.node === state.current);
  const next = at < 0 ? (step > 0 ? 0 : found.length - 1) : (at + step + found.length) % found.length;
  const { node, weight, links: { student, teacher } } = found[next];
  const whose = student && teacher ? "both graphs" : `the ${student ? "student" : "teacher"}'s graph`;
  const which = `Neighbour ${next + 1} of ${found.length} of ${nameOf(state.anchor)}`;
  const note = `${which}, correlation ${weight.toFixed(2)}, in ${whose}. `;
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
  const node = state.pinned ?? nearestNode(area.width / 2, area.height / 2, Infinity);
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

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target !== stage) return;
  const walks = state.current && !event.shiftKey;
  const act = PAN[event.key] ? (walks ? WALK[event.key] : () => panBy(...PAN[event.key])) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

/** The place of a node on the chosen map; y points upwards there. */
function target(node) {
  return [(node[`x_${state.positions}`] ?? 0) * SCALE, -(node[`y_${state.positions}`] ?? 0) * SCALE];
}

function arrange(animated) {
  cancelAnimationFrame(moving);
  middles = findMiddles();
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
    version += 1;
    if (part < 1) moving = requestAnimationFrame(advance);
    else paintEdges();
    repaint();
  };
  advance(start);
}

function moved({ k, x, y }) {
  if (!view) return;
  host.dataset.zoom = (k * SCALE).toFixed(2);
  host.dataset.centre = `${(x / SCALE).toFixed(4)} ${(-y / SCALE).toFixed(4)}`;
  clearTimeout(restTimer);
  restTimer = setTimeout(paintEdges, REST);
}
