// The graphs as the page holds them, and what is said of their nodes.
const SIDES = ["student", "teacher"];
const OWNER = { student: "Student", teacher: "Teacher" };

function readGraph(data) {
  const nodes = data.nodes.map((node, number) => ({ ...node, number, x: 0, y: 0 }));
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const given = data.edges ?? {};
  const sides = SIDES.filter((side) => side === "student" || (given[side] ?? []).length > 0);
  const links = {}, near = {};
  for (const side of SIDES) {
    near[side] = nodes.map(() => new Map());
    links[side] = [];
    for (const [from, to, weight, other = null, mutual = 0] of given[side] ?? []) {
      const link = { source: byId.get(from), target: byId.get(to), weight, other, mutual, side };
      if (!link.source || !link.target || link.source === link.target) continue;
      links[side].push(link);
      near[side][link.source.number].set(link.target, link);
      near[side][link.target.number].set(link.source, link);
    }
  }
  for (const side of SIDES) {
    const others = near[side === "student" ? "teacher" : "student"];
    for (const link of links[side]) link.shared = others[link.source.number].has(link.target);
  }
  const { classes = [], colours = [], ramp = [], numbers = [], layout = "t-SNE", shapes = {}, sprite, k = 0 } = data;
  return { nodes, byId, classes, colours, ramp, numbers, layout, shapes, sides, links, near, sprite, k };
}

function sharedNeighbours(node) {
  const others = graph.near.teacher[node.number];
  return [...graph.near.student[node.number].keys()].filter((neighbour) => others.has(neighbour));
}

/** Neighbours of a node by the edges of a choice, the nearest first: [{node, weight, links}]. */
function neighbours(node, edges) {
  const found = new Map();
  for (const side of graph.sides) {
    if (edges !== "all" && edges !== "differing" && edges !== side) continue;
    for (const [neighbour, link] of graph.near[side][node.number]) {
      const known = found.get(neighbour) ?? { node: neighbour, weight: -Infinity, links: {} };
      known.weight = Math.max(known.weight, link.weight);
      known.links[side] = link;
      found.set(neighbour, known);
    }
  }
  const listed = [...found.values()].sort((a, b) => b.weight - a.weight);
  return edges === "differing" ? listed.filter((one) => Object.keys(one.links).length === 1) : listed;
}

const className = (number) => (number < 0 ? "unlabelled" : (graph.classes[number] ?? `class ${number}`));
const labelOf = (node) => node.label || "unlabelled";
const nameOf = (node) => node.file ?? `Image ${node.index ?? node.id}`;
const predicted = (node, side) => node[`prediction_${side}`] ?? null;
const wrong = (node, side) => ![null, node.class].includes(predicted(node, side)) && node.class >= 0;
const counted = (count) => count.toLocaleString("en");
const many = (count, noun) => `${counted(count)} ${noun}${count === 1 ? "" : "s"}`;
const shortNumber = (value) => (Number.isInteger(value) ? counted(value) : value.toFixed(2).replace("-", "\u2212"));

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

/** Who chose whom: an edge stands where one image is among the nearest of the other. */
function choiceText(node, link) {
  if (link.mutual) return "each chose the other";
  return link.source === node ? "it chose this one" : "chosen by this one";
}

const numberText = ({ share }, value) => (share ? `${(100 * value).toFixed(1)}\u00a0%` : shortNumber(value));
const numbersOf = (node) => graph.numbers.filter(({ key }) => (node[key] ?? null) !== null);

function sentence(node) {
  const guesses = SIDES.filter((side) => predicted(node, side) !== null)
    .map((side) => `${OWNER[side]} predicts ${predictionText(node, side)}.`);
  return [`${nameOf(node)}, ${labelOf(node)}.`, ...guesses, `${neighbourhoodText(node)}.`].join(" ");
}
