// The maps of the page and its lists of images lead to the graph, and what is current there has a ring on both maps.
function listenToMaps() {
  for (const drawing of document.querySelectorAll(".map svg")) {
    const side = drawing.dataset.side;
    const at = (event) => {
      const box = drawing.getBoundingClientRect();
      const { x, y, width } = drawing.viewBox.baseVal; // a square
      const unit = width / box.width;
      const [mapX, mapY] = [x + (event.clientX - box.left) * unit, y + (event.clientY - box.top) * unit];
      const far = (node) => Math.hypot(node[`x_${side}`] - mapX, -node[`y_${side}`] - mapY);
      const node = graph.nodes.reduce((best, one) => (far(one) < far(best) ? one : best));
      return far(node) < 0.05 ? node : null;
    };
    drawing.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const node = at(event);
      if (node !== state.current) setCurrent(node);
      tip.hidden = !node;
      if (!node) return;
      tip.replaceChildren(...told(node, 2));
      tip.style.left = `${Math.min(event.clientX + 16, window.innerWidth - tip.offsetWidth - 4)}px`;
      tip.style.top = `${Math.min(event.clientY + 16, window.innerHeight - tip.offsetHeight - 4)}px`;
    });
    drawing.addEventListener("pointerleave", () => { tip.hidden = true; setCurrent(null); });
    drawing.addEventListener("click", (event) => { if (at(event)) { tip.hidden = true; show(at(event)); } });
  }
  document.addEventListener("click", (event) => {
    const node = graph.byId.get(Number(event.target.closest?.("[data-node]")?.dataset.node ?? NaN));
    if (node) show(node);
  });
}

function ringOnMaps() {
  const node = state.current ?? state.pinned;
  for (const drawing of document.querySelectorAll(".map svg")) {
    const ring = drawing.querySelector(".ring") ?? drawing.appendChild(svg("circle", { class: "ring", r: 0.04 }));
    ring.setAttribute("visibility", node ? "visible" : "hidden");
    if (!node) continue;
    ring.setAttribute("cx", node[`x_${drawing.dataset.side}`]);
    ring.setAttribute("cy", -node[`y_${drawing.dataset.side}`]);
  }
}
