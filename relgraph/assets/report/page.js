"use strict";
// The page's own behaviour: colours, curves that are shown or hidden and read, classes that light up.
(() => {
  const root = document.documentElement;
  const themes = { auto: "as the system", light: "light", dark: "dark" };

  function setTheme(name) {
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    document.getElementById("theme-name").textContent = name[0].toUpperCase() + name.slice(1);
    const button = document.getElementById("theme");
    button.setAttribute("aria-label", `Colours: ${themes[name]}`);
    button.dataset.theme = name;
    document.dispatchEvent(new CustomEvent("relgraph:theme", { detail: name }));
  }

  document.getElementById("theme").addEventListener("click", (event) => {
    const names = Object.keys(themes);
    setTheme(names[(names.indexOf(event.currentTarget.dataset.theme || "auto") + 1) % names.length]);
  });

  for (const key of document.querySelectorAll(".key[data-run]")) {
    key.addEventListener("click", () => {
      const shown = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", String(shown));
      for (const curve of document.querySelectorAll(`.curve[data-run="${key.dataset.run}"]`)) {
        curve.toggleAttribute("hidden", !shown);
      }
    });
  }

  function lightUp(label) {
    for (const drawing of document.querySelectorAll(".map svg")) {
      drawing.classList.toggle("lit", label !== "");
      for (const path of drawing.querySelectorAll("path")) path.classList.toggle("on", path.dataset.class === label);
    }
    for (const key of document.querySelectorAll(".key[data-class]")) {
      key.setAttribute("aria-pressed", String(key.dataset.class === label));
    }
  }

  for (const key of document.querySelectorAll(".key[data-class]")) {
    key.addEventListener("click", () => lightUp(key.getAttribute("aria-pressed") === "true" ? "" : key.dataset.class));
  }
  const select = document.getElementById("class-select");
  if (select) select.addEventListener("change", () => lightUp(select.value));

  // Values under the pointer: those of the epoch that is nearest to it.
  const tip = document.getElementById("tip");
  for (const drawing of document.querySelectorAll(".chart svg")) {
    const cursor = drawing.querySelector(".cursor");
    const hide = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
    drawing.addEventListener("pointerleave", hide);
    drawing.addEventListener("pointermove", (event) => {
      const box = drawing.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * drawing.viewBox.baseVal.width;
      const found = nearest(drawing, x);
      if (!found) return hide();
      for (const [name, value] of [["x1", found.x], ["x2", found.x], ["visibility", "visible"]]) {
        cursor.setAttribute(name, value);
      }
      tip.textContent = found.lines.join("\n");
      tip.hidden = false;
      const right = event.clientX + 16 + tip.offsetWidth > window.innerWidth;
      tip.style.left = `${Math.max(4, right ? event.clientX - tip.offsetWidth - 12 : event.clientX + 16)}px`;
      tip.style.top = `${Math.min(event.clientY + 12, window.innerHeight - tip.offsetHeight - 4)}px`;
    });
  }

  function nearest(drawing, x) {
    let best = null;
    const curves = [];
    for (const line of drawing.querySelectorAll(".curve:not([hidden]) polyline")) {
      const places = line.getAttribute("points").split(" ").map((point) => Number(point.split(",")[0]));
      const values = line.dataset.values.split(" ").map((pair) => pair.split(":"));
      curves.push({ line, values });
      places.forEach((place, i) => {
        if (best === null || Math.abs(place - x) < Math.abs(best.x - x)) best = { x: place, epoch: values[i][0] };
      });
    }
    if (best === null) return null;
    const lines = [`epoch ${best.epoch}`];
    for (const { line, values } of curves) {
      const pair = values.find(([epoch]) => epoch === best.epoch);
      if (pair) lines.push(`${line.dataset.name}${line.dataset.part ? " " + line.dataset.part : ""}: ${pair[1]}`);
    }
    return { x: best.x, lines };
  }

  // A position of an image, and how like it all others are: a picture has a tile for each position of its grid.
  for (const strip of document.querySelectorAll(".places")) {
    const at = [0, 0];
    const choose = (...place) => {
      place.forEach((share, i) => {
        at[i] = Math.min(Math.max(share, 0.02), 0.98);
        strip.style.setProperty(["--x", "--y"][i], `${100 * at[i]}%`);
      });
      for (const map of strip.querySelectorAll("[data-grid]")) {
        map.style.backgroundPosition = map.dataset.grid.split(" ").map(Number)
          .map((count, i) => `${(100 * Math.floor(at[i] * count)) / Math.max(1, count - 1)}%`).join(" ");
      }
    };
    strip.addEventListener("click", (event) => {
      const box = event.target.closest(".spot")?.getBoundingClientRect();
      if (!box || !event.detail) return; // a key that presses the button chooses no place
      choose((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
    strip.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      choose(at[0] + step[0] / 12, at[1] + step[1] / 12);
    });
    choose(13 / 24, 13 / 24);
  }

  // Where one reads, in the contents.
  if ("IntersectionObserver" in window) {
    const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        const link = links.get(entry.target.id);
        link?.setAttribute("aria-current", "true");
        link?.closest("ol").scrollTo({ left: link.offsetLeft - 48 }); // on a narrow page it is one line
      }
    }, { rootMargin: "-20% 0px -70% 0px" });
    for (const section of document.querySelectorAll("main > section")) seen.observe(section);
  }
})();
