// Which edges are drawn, and their canvas. It lies under that of the nodes, is painted with a margin, and follows a
// moving view as a picture: painting thousands of lines in each frame would be slow. How slow cannot be timed here: a
// canvas only notes the lines, and draws them later.
const DASH = { student: [5, 4], teacher: [] }; // pixels
const MARGIN = 0.25; // of the stage, on each side
const QUICK = 500; // lines: no more than these are painted in each frame
let painted = { zoom: 1, x: 0, y: 0, lines: 0 };

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
  const [width, height] = [area.width, area.height].map((side) => side * (1 + 2 * MARGIN));
  const context = cleared(edgeCanvas, width, height);
  const [zoom, { x, y }] = [view.zoom(), view.centerAt()];
  const across = width / 2 / zoom, down = height / 2 / zoom;
  context.translate(width / 2 - x * zoom, height / 2 - y * zoom);
  context.globalAlpha = Math.min(0.75, Math.max(0.15, 1200 / links.length));
  context.lineWidth = 1; // a processor draws wider lines six times as slowly
  const inside = ({ source: a, target: b }) => Math.min(a.x, b.x) <= x + across && Math.max(a.x, b.x) >= x - across
    && Math.min(a.y, b.y) <= y + down && Math.max(a.y, b.y) >= y - down;
  const shown = links.filter(inside);
  for (const { source, target, side } of shown) {
    context.strokeStyle = theme[side];
    context.setLineDash(DASH[side]);
    context.beginPath(); // of one line, which is quicker than a path of many
    context.moveTo(source.x * zoom, source.y * zoom);
    context.lineTo(target.x * zoom, target.y * zoom);
    context.stroke();
  }
  edgeCanvas.style.transform = "";
  edgeCanvas.hidden = false;
  painted = { zoom, x, y, lines: shown.length };
}

/** Called in each frame: paints the edges, or moves their picture until the view rests. */
function followEdges() {
  const [zoom, { x, y }] = [view.zoom(), view.centerAt()];
  const moves = host.dataset.moving === "true";
  if (zoom === painted.zoom && x === painted.x && y === painted.y && !moves) return;
  if (painted.lines <= QUICK) return void paintEdges();
  if (moves) edgeCanvas.hidden = true;
  const [dx, dy] = [(painted.x - x) * zoom, (painted.y - y) * zoom];
  edgeCanvas.style.transform = `translate(${dx}px, ${dy}px) scale(${zoom / painted.zoom})`;
}
