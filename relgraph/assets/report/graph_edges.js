// Which edges are drawn, and their canvas. It lies under that of the nodes, is painted with a margin, and follows a
// moving view as a picture: painting thousands of lines in each frame would be slow.
const DASH = { student: [5, 4], teacher: [] }; // pixels
const WIDTH = { student: 1, teacher: 1.5 }; // pixels
const MARGIN = 0.25; // of the stage, on each side
const QUICK = 6; // ms: what takes no longer is painted in each frame
const PATH = 32; // lines in one path: a path of thousands is slow to fill
let painted = { zoom: 1, x: 0, y: 0, cost: 0 };

const differing = () => state.edges === "differing";
/** By what edges are ranked: how much the networks differ on them, or how strong they are. */
const strength = ({ weight, other }) => (differing() && other !== null ? Math.abs(weight - other) : weight);
const across = ({ source, target }) => source.class !== target.class && source.class >= 0 && target.class >= 0;

/** The edges of the chosen graph, before any limit. */
function chosenLinks() {
  const sides = differing() ? [...graph.sides].reverse() : [state.edges]; // thin lines on top
  return sides.flatMap((side) => graph.links[side]).filter((link) => !differing() || !link.shared);
}

function drawnLinks() {
  const found = chosenLinks().filter((link) => (matching.has(link.source) || matching.has(link.target))
    && (!state.across || across(link)) && (state.least === null || strength(link) >= state.least));
  if (!state.most) return found;
  const degree = new Uint16Array(graph.nodes.length), kept = new Set();
  for (const link of [...found].sort((a, b) => strength(b) - strength(a))) {
    if (Math.max(degree[link.source.number], degree[link.target.number]) >= state.most) continue;
    degree[link.source.number] += 1;
    degree[link.target.number] += 1;
    kept.add(link);
  }
  return found.filter((link) => kept.has(link));
}

function paintEdges() {
  const start = performance.now();
  const [width, height] = [area.width, area.height].map((side) => side * (1 + 2 * MARGIN));
  const context = cleared(edgeCanvas, width, height);
  const [zoom, { x, y }] = [view.zoom(), view.centerAt()];
  const across = width / 2 / zoom, down = height / 2 / zoom;
  context.translate(width / 2 - x * zoom, height / 2 - y * zoom);
  context.globalAlpha = Math.min(0.75, Math.max(0.3, 1200 / links.length));
  const outside = ({ source: a, target: b }) => Math.min(a.x, b.x) > x + across || Math.max(a.x, b.x) < x - across
    || Math.min(a.y, b.y) > y + down || Math.max(a.y, b.y) < y - down;
  let count = 0, side = null;
  for (const link of links) {
    if (outside(link)) continue;
    if (count % PATH === 0 || link.side !== side) {
      if (count) context.stroke();
      context.beginPath();
      [side, count] = [link.side, 0];
      context.strokeStyle = theme[side];
      context.lineWidth = WIDTH[side];
      context.setLineDash(DASH[side]);
    }
    context.moveTo(link.source.x * zoom, link.source.y * zoom);
    context.lineTo(link.target.x * zoom, link.target.y * zoom);
    count += 1;
  }
  if (count) context.stroke();
  edgeCanvas.style.transform = "";
  edgeCanvas.hidden = false;
  painted = { zoom, x, y, cost: performance.now() - start };
}

/** Called in each frame: paints the edges, or moves their picture until the view rests. */
function followEdges() {
  const [zoom, { x, y }] = [view.zoom(), view.centerAt()];
  const moves = host.dataset.moving === "true";
  if (zoom === painted.zoom && x === painted.x && y === painted.y && !moves) return;
  if (painted.cost <= QUICK) return void paintEdges();
  if (moves) edgeCanvas.hidden = true;
  const [dx, dy] = [(painted.x - x) * zoom, (painted.y - y) * zoom];
  edgeCanvas.style.transform = `translate(${dx}px, ${dy}px) scale(${zoom / painted.zoom})`;
}
