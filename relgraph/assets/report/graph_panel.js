// What stands around the graph: card, pinned image, controls, legend and table.
function setCurrent(node, { keyboard = false, anchor = node, note = "" } = {}) {
  state.current = node;
  state.anchor = node && anchor;
  state.byKeyboard = keyboard;
  host.dataset.current = node ? node.id : "";
  card.hidden = !node;
  if (node) card.replaceChildren(...told(node, 2));
  if (node && keyboard) {
    bringIntoView(node);
    live.textContent = `${note}${sentence(node)}`;
  }
  paintOverlay();
  ringOnMaps();
}

/** An image's thumbnail, and what is known of it with so many of its numbers. */
function told(node, most = Infinity) {
  const pair = (name, value) => el("div", {}, el("dt", {}, `${name}:`), el("dd", {}, value));
  const rows = SIDES.filter((side) => predicted(node, side) !== null)
    .map((side) => pair(OWNER[side], predictionText(node, side)));
  const numbers = numbersOf(node).slice(0, most).map((one) => pair(one.name, numberText(one, node[one.key])));
  return [thumbnail(node, 72), el("div", {},
    el("strong", {}, labelOf(node)), muted(nameOf(node)), el("dl", {}, ...rows, ...numbers),
    muted(neighbourhoodText(node)),
  )].filter(Boolean);
}

/** Puts the card beside its node, away from most of its neighbours, or above or below it where that is too narrow. */
function placeCard() {
  const { x, y } = place(state.current);
  const [width, height] = [card.offsetWidth, card.offsetHeight];
  const gap = 16 + thumbSide() * 0.7;
  const edge = area.width - (area.width > 600 ? 52 : 4); // keeps off the buttons where there is room
  const [left, right] = [x - gap - width, x + gap];
  const fits = { left: left >= 4, right: right + width <= edge };
  const near = neighbours(state.current, state.edges);
  const away = near.reduce((sum, one) => sum + Math.sign(place(one.node).x - x), 0) > 0 ? "left" : "right";
  const side = fits[away] ? away : (fits.left ? "left" : "right");
  const clamp = (value, most) => Math.round(Math.max(4, Math.min(value, most)));
  const beside = fits.left || fits.right;
  const above = y > area.height / 2 ? y - gap - height : y + gap;
  card.style.left = `${clamp(beside ? { left, right }[side] : x - width / 2, area.width - width - 4)}px`;
  card.style.top = `${clamp(beside ? y - height / 2 : above, area.height - height - 4)}px`;
}

function bringIntoView(node) {
  const { x, y } = place(node);
  const margin = 40;
  if (x > margin && y > margin && x < area.width - margin && y < area.height - margin) return;
  touched = true;
  view.centerAt(node.x, node.y, calm() ? 0 : 300);
}

function pin(node) {
  state.pinned = node;
  host.dataset.pinned = node ? node.id : "";
  fillPanel();
  paintOverlay();
  ringOnMaps();
  live.textContent = node ? `Pinned. ${sentence(node)}` : "Nothing is pinned.";
}

/** Pins an image that another part of the page names, and brings the graph before the reader. */
function show(node) {
  host.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  stage.focus({ preventScroll: true });
  setCurrent(node, { keyboard: true });
  pin(node);
  card.hidden = true; // the panel tells the same
}

function fillPanel() {
  const node = state.pinned;
  const title = el("h3", {}, "Pinned image");
  if (!node) {
    const hint = "Click an image, or press Enter on it, to see its neighbours here.";
    return panel.replaceChildren(title, el("p", { class: "rg-muted" }, hint));
  }
  const shared = new Set(sharedNeighbours(node));
  const lists = graph.sides.map((side) => {
    const found = neighbours(node, side);
    const chosen = found.filter((one) => one.links[side].mutual || one.links[side].source === node).length;
    const others = `${found.length - chosen} that chose it`;
    const heading = `${OWNER[side]}'s neighbours: ${chosen} chosen by this image, ${others}`;
    const items = found.map((one) => neighbourItem(one, one.links[side], shared.has(one.node)));
    return el("div", {}, el("h4", {}, heading), el("ul", { class: "rg-neighbours" }, ...items));
  });
  const unpin = () => { pin(null); stage.focus({ preventScroll: true }); };
  return panel.replaceChildren(
    title, el("div", { class: "rg-pinned" }, ...told(node), el("button", { type: "button", click: unpin }, "Unpin")),
    el("div", { class: "rg-lists" }, ...lists),
  );
}

function neighbourItem({ node }, link, shared) {
  const words = `${labelOf(node)} ${shortNumber(link.weight)}${shared ? ", both" : ""}`;
  const other = link.other === null ? "" : `, ${shortNumber(link.other)} by the other network`;
  const choose = () => {
    setCurrent(node, { keyboard: true });
    pin(node);
    panel.querySelector("button")?.focus({ preventScroll: true });
  };
  return el("li", {}, el("button", {
    type: "button", class: shared ? "rg-shared" : null, click: choose, "aria-label": `Pin ${nameOf(node)}, ${words}`,
    title: `${nameOf(node)}, ${labelOf(node)}, correlation ${link.weight}${other}; ${choiceText(state.pinned, link)}`,
  }, thumbnail(node, 40), el("span", {}, words)));
}

function radios(title, name, options, choose) {
  const inputs = options.map(([value, text, sample]) => {
    const change = () => choose(value);
    const input = el("input", { type: "radio", name: `graph-${name}`, value, checked: state[name] === value, change });
    return el("label", {}, input, sample ?? null, text);
  });
  return el("fieldset", {}, el("legend", {}, title), el("div", { class: "rg-choices" }, ...inputs));
}

function picker(title, name, options, choose) {
  const listed = options.map(([value, text]) => el("option", { value, selected: state[name] === value }, text));
  const select = el("select", { name: `graph-${name}`, change: (event) => choose(event.target.value) }, ...listed);
  return el("label", { class: "rg-field" }, title, select);
}

function check(text, name) {
  const change = (event) => { state[name] = event.target.checked; refresh(); };
  const input = el("input", { type: "checkbox", name: `graph-${name}`, checked: state[name], change });
  return el("label", { class: "rg-check" }, input, text);
}

function controls() {
  const two = graph.sides.length === 2;
  const edges = [
    ["student", "student's", lineSample("student")], ["teacher", "teacher's", lineSample("teacher")],
    ["differing", "only differing"],
  ];
  const maps = [["student", "student's"], ["teacher", "teacher's"]];
  const checks = el("div", { class: "rg-checks" }, check("between classes", "across"), check("class names", "names"));
  const limits = [[0, "all"], ...[1, 2, 3, 5, 8].map((most) => [most, `at most ${most}`])];
  const names = [...new Set(graph.nodes.map(labelOf))].sort();
  const found = () => matching.size < graph.nodes.length && [...matching][0];
  const search = el("input", {
    type: "search", name: "graph-search", list: "graph-classes", placeholder: "class, file or number",
    autocomplete: "off",
    input: (event) => { state.query = event.target.value.trim(); setCurrent(null); refresh(); },
    keydown: (event) => { if (event.key === "Enter" && found()) show(found()); },
  });
  least = el("input", { type: "range", name: "graph-least", min: 0, max: 100, value: 0, input: chooseLeast });
  return el("div", { class: "rg-controls" },
    el("label", { class: "rg-field rg-wide" }, "Find", search),
    picker("Colour", "colour", colourings(), chooseColour),
    picker("Edges an image", "most", limits, (value) => { state.most = Number(value); refresh(); }),
    two ? radios("Edges", "edges", edges, chooseEdges) : null,
    two ? radios(`Map (${graph.layout})`, "positions", maps, choosePositions) : null,
    el("label", { class: "rg-field rg-wide" }, el("span", { class: "rg-least" }), least),
    graph.classes.length ? checks : null,
    el("datalist", { id: "graph-classes" }, ...names.map((name) => el("option", { value: name }))),
  );
}

function chooseColour(value) {
  Object.assign(state, { colour: value, group: null });
  refresh();
}

function choosePositions(value) {
  state.positions = host.dataset.positions = value;
  arrange(true);
}

function chooseEdges(value) {
  Object.assign(state, { edges: value, least: null });
  least.value = 0;
  refresh();
}

function chooseLeast() {
  const all = chosenLinks().map(strength);
  const [low, high] = [all.reduce((a, b) => Math.min(a, b), 1), all.reduce((a, b) => Math.max(a, b), -1)];
  state.least = least.valueAsNumber ? low + ((high - low) * least.valueAsNumber) / 100 : null;
  refresh();
}

function fillLegend() {
  const two = graph.sides.length === 2;
  const not = { student: ", not the teacher's", teacher: ", not the student's" };
  const words = (side) => `${side}'s edge${differing() ? not[side] : ""}`;
  const lines = graph.sides.map((side) => el("li", { class: two && "rg-printed" }, lineSample(side), words(side)));
  if (two) lines.push(el("li", {}, lineSample("teacher", "student"), "in both graphs (pinned image)"));
  const shape = (text, kind) => el("li", {}, markSample(GREY, kind), text);
  const shapes = byOutcome() ? [shape("right", "circle"), shape("wrong", "cross")] : [];
  const old = legend.querySelector(".rg-groups")?.scrollTop ?? 0;
  const list = el("ul", { class: "rg-groups" }, ...[...groups.values()].map(groupItem));
  const title = el("h3", { class: "visually-hidden" }, "Legend");
  legend.replaceChildren(title, el("ul", { class: "rg-lines" }, ...lines, ...shapes), groups.size ? list : scale());
  list.scrollTop = old;
  const what = differing() ? "Difference" : "Correlation";
  const from = state.least === null ? "any" : `at least ${shortNumber(state.least)}`;
  host.querySelector(".rg-least").textContent = `${what} of an edge: ${from}`;
}

/** The colours of a number, with its range. */
function scale() {
  const shown = shownNumber(), { name } = shown;
  const [low, high] = [shown.low, shown.high].map((value) => el("span", {}, numberText(shown, value)));
  const bar = el("div", { class: "rg-ramp" });
  bar.style.background = `linear-gradient(to right, ${graph.ramp.join(", ")})`;
  return el("div", { class: "rg-scale" }, name, bar, low, high);
}

function groupItem(group) {
  const light = (key) => () => { state.lit = key; paintOverlay(); };
  const choose = () => {
    Object.assign(state, { group: state.group === group.key ? null : group.key, lit: null });
    setCurrent(null);
    refresh();
    legend.querySelector(`[data-key="${group.key}"]`)?.focus({ preventScroll: true });
  };
  return el("li", {}, el("button", {
    type: "button", "data-key": group.key, "aria-pressed": String(state.group === group.key), click: choose,
    pointerenter: light(group.key), pointerleave: light(null), focus: light(group.key), blur: light(null),
  }, markSample(group.colour, group.shape), el("span", { class: "rg-name" }, group.name),
  el("span", { class: "rg-muted" }, counted(group.count))));
}

function fillTable() {
  const summary = table.firstElementChild;
  summary.textContent = `The images as a table (${counted(matching.size)})`;
  if (!table.open) return table.replaceChildren(summary);
  const columns = [["Class", labelOf]];
  for (const side of graph.sides) {
    if (graph.nodes.some((node) => predicted(node, side) !== null)) {
      columns.push([`${OWNER[side]} predicts`, (node) => predictionText(node, side)]);
    }
    columns.push([`${OWNER[side]}'s community`, (node) => String(node[`community_${side}`])]);
    columns.push([`${OWNER[side]}'s neighbours`, (node) => String(graph.near[side][node.number].size)]);
  }
  if (graph.sides.length === 2) columns.push(["In both graphs", (node) => String(sharedNeighbours(node).length)]);
  for (const one of graph.numbers) {
    columns.push([one.name, (node) => ((node[one.key] ?? null) === null ? "\u2013" : numberText(one, node[one.key]))]);
  }
  const titles = ["Image", ...columns.map(([title]) => title)];
  const head = el("tr", {}, ...titles.map((title) => el("th", { scope: "col" }, title)));
  const rows = [...matching].map((node) => el("tr", {}, el("th", { scope: "row" }, pinButton(node)),
    ...columns.map(([, text]) => el("td", {}, text(node)))));
  const caption = el("caption", {}, "Images of the graph; the button pins one.");
  const whole = el("table", {}, caption, el("thead", {}, head), el("tbody", {}, ...rows));
  const box = { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Images of the graph" };
  return table.replaceChildren(summary, el("div", box, whole));
}

function pinButton(node) {
  const text = node.file ?? String(node.index ?? node.id);
  return el("button", { type: "button", "aria-label": `Pin ${nameOf(node)}`, click: () => show(node) }, text);
}
