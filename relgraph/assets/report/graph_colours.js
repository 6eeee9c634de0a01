// What colours and shapes stand for: classes, predictions, communities, or a number of each image.
const GREY = "#8b8f97"; // what has no class or no number
const STEPS = 32; // of a number's colours

function colourings() {
  const any = (key) => graph.nodes.some((node) => (node[key] ?? null) !== null);
  const options = [["label", "Class"]];
  for (const kind of ["prediction", "community"]) {
    for (const side of graph.sides) {
      if (any(`${kind}_${side}`)) options.push([`${kind}_${side}`, `${OWNER[side]}'s ${kind}`]);
    }
  }
  return [...options, ...graph.numbers.filter(({ key }) => any(key)).map(({ key, name }) => [key, name])];
}

/** The number that is shown by colour, with its range; undefined where colours are groups. */
function shownNumber() {
  const number = graph.numbers.find(({ key }) => key === state.colour);
  if (!number) return undefined;
  const values = graph.nodes.map((node) => node[number.key] ?? null).filter((value) => value !== null);
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  return { ...number, low, high };
}

/** The colour at a share, 0 to 1, of the ramp. */
function rampColour(share) {
  const at = share * (graph.ramp.length - 1);
  const first = Math.min(Math.floor(at), graph.ramp.length - 2);
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [from, to] = graph.ramp.slice(first, first + 2).map(parts);
  return `rgb(${from.map((part, i) => Math.round(part + (to[i] - part) * (at - first))).join(" ")})`;
}

/** Ten colours; a class takes another shape each time that its colour comes again: fifty marks differ. */
function groupMark(number) {
  if (number < 0) return [GREY, "circle"];
  const [count, shapes] = [graph.colours.length, Object.keys(graph.shapes)];
  return [graph.colours[number % count], shapes[((number % count) + Math.floor(number / count)) % shapes.length]];
}

const groupOf = (node) => node[state.colour === "label" ? "class" : state.colour] ?? -1;

/** Groups of the chosen colouring, key to {key, name, count, colour, shape}; none where it is a number. */
function findGroups() {
  const counts = new Map();
  if (graph.numbers.some(({ key }) => key === state.colour)) return counts;
  for (const node of graph.nodes) counts.set(groupOf(node), (counts.get(groupOf(node)) ?? 0) + 1);
  const named = !state.colour.startsWith("community");
  const keys = [...counts.keys()].sort((a, b) => (named ? a - b : counts.get(b) - counts.get(a) || a - b));
  return new Map(keys.map((key, rank) => {
    const [colour, shape] = groupMark(named ? key : rank);
    const name = named ? className(key) : `community ${key}`;
    return [key, { key, name, count: counts.get(key), colour, shape: byOutcome() ? "circle" : shape }];
  }));
}

/** Where colours are predictions, shapes tell whether they are right. */
const byOutcome = () => state.colour.startsWith("prediction");

/** Gives every node its mark and returns the marks, the rarest last: [{colour, shape, nodes}]. */
function findMarks() {
  const found = new Map(), number = shownNumber();
  for (const node of graph.nodes) {
    let { colour, shape } = groups.get(groupOf(node)) ?? { colour: GREY, shape: "circle" };
    const value = number && (node[number.key] ?? null);
    if (number && value !== null) {
      const share = number.high > number.low ? (value - number.low) / (number.high - number.low) : 0.5;
      colour = rampColour(Math.round(share * STEPS) / STEPS);
    }
    if (byOutcome() && wrong(node, state.colour.split("_")[1])) shape = "cross";
    const key = `${colour} ${shape}`;
    if (!found.has(key)) found.set(key, { colour, shape, nodes: [] });
    node.mark = found.get(key);
    node.mark.nodes.push(node);
  }
  return [...found.values()].sort((a, b) => b.nodes.length - a.nodes.length);
}

/** Adds a mark to the path of a canvas. */
function addMark(context, shape, x, y, r) {
  const points = graph.shapes[shape];
  if (!points?.length) {
    context.moveTo(x + r, y);
    context.arc(x, y, r, 0, 2 * Math.PI);
    return;
  }
  points.forEach(([dx, dy], i) => context[i ? "lineTo" : "moveTo"](x + r * dx, y + r * dy));
  context.closePath();
}

function readTheme() {
  const style = getComputedStyle(host);
  const names = ["surface", "text", "faint", ...SIDES];
  theme = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
