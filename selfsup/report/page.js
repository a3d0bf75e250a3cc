"use strict";
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const root = document.documentElement;
  const redraw = [];
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();

  // Light and dark
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const theme = make("button", { type: "button", className: "theme" });
  const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.ariaLabel = (isDark() ? "Light" : "Dark") + " colours"; };
  theme.onclick = () => { root.dataset.theme = isDark() ? "light" : "dark"; named(); redraw.forEach((draw) => draw()); };
  system.addEventListener("change", () => { named(); redraw.forEach((draw) => draw()); });
  named();
  document.querySelector("header .wide").append(theme);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

  // Curves: { x: [...], series: [{ name, colour, dashed, y: [...] }] }, null where a series has no value
  const curve = (figure, given) => {
    const still = figure.querySelector("svg");
    const place = make("div", { className: "plot", tabIndex: 0 });
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "Interactive curve: left and right arrow keys read values, drag to enlarge");
    still.after(place);
    const said = make("div", { className: "screen-reader" });
    said.setAttribute("aria-live", "polite");
    place.after(said);
    let plot = null, at = -1;
    const digits = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toString());
    const draw = () => {
      if (plot) plot.destroy();
      const width = Math.max(240, Math.min(600, figure.clientWidth));
      const axis = { stroke: colour("faint"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      plot = new uPlot({
        width, height: Math.round(Math.max(190, width * 0.42)), padding: [10, 12, 0, 0],
        scales: { x: { time: false } },
        axes: [{ ...axis, size: 30, values: (_, all) => all.map((value) => value.toLocaleString("en")) }, { ...axis, size: 50, values: (_, all) => all.map(digits) }],
        series: [{ label: given.x_name, value: (_, value) => (value == null ? "–" : value.toLocaleString("en")) }, ...given.series.map((one) => ({
          label: one.name, stroke: colour(one.colour), width: 2, spanGaps: true, dash: one.dashed ? [5, 4] : undefined,
          points: { show: given.x.length < 40 && !one.dashed, size: 5 }, value: (_, value) => digits(value),
        }))],
      }, [given.x, ...given.series.map((one) => one.y)], place);
    };
    place.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      at = Math.max(0, Math.min(given.x.length - 1, at < 0 ? (step > 0 ? 0 : given.x.length - 1) : at + step));
      plot.setCursor({ left: plot.valToPos(given.x[at], "x"), top: plot.over.clientHeight / 2 });
      said.textContent = given.x_name + " " + given.x[at] + ": " + given.series.map((one) => one.name + " " + digits(one.y[at])).join(", ");
    };
    still.style.display = "none";
    draw();
    redraw.push(draw);
  };
  for (const figure of document.querySelectorAll("[data-curve]")) {
    const given = data.curves && data.curves[figure.dataset.curve];
    const start = () => { if (given && typeof uPlot === "function") curve(figure, given); };
    const folded = figure.closest("details");
    if (folded && !folded.open) folded.addEventListener("toggle", start, { once: true });
    else start();
  }

  // The map: points as 16-bit numbers in base64, pictures of some of them in one large picture
  const numbers = (text, Kind) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Kind(bytes.buffer, 0, bytes.length / Kind.BYTES_PER_ELEMENT);
  };
  const map = (holder, given) => {
    const still = holder.querySelector("svg");
    const layouts = given.layouts.map((one) => ({ ...one, xy: numbers(one.xy, Uint16Array), rows: one.rows && numbers(one.rows, Uint32Array) }));
    const groups = given.groups.map((one) => ({ ...one, of: numbers(one.of, Int16Array) }));
    const pictured = new Map(Array.from(numbers(given.thumbs.rows, Uint32Array), (row, place) => [row, place]));
    const sheet = new Image();
    if (given.thumbs.uri) sheet.src = given.thumbs.uri;
    let layout = layouts[given.first], group = groups[0], only = -2, view = { x: 0, y: 0, scale: 1 }, chosen = -1;
    const canvas = make("canvas", { tabIndex: 0 }), pen = canvas.getContext("2d");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", still.getAttribute("aria-label") + " Arrow keys go to the next picture, plus and minus enlarge, 0 shows all.");
    const small = make("canvas", { width: 88, height: 88 }), word = make("div", { textContent: "Point at the map, or press an arrow key in it, to see an image." });
    small.hidden = true; small.setAttribute("aria-hidden", "true");
    const told = make("div", { className: "told" }, small, word);
    told.setAttribute("aria-live", "polite");
    const size = () => canvas.clientWidth;
    const place = (index) => [((layout.xy[2 * index] / 65535 - view.x) * view.scale) * size(), ((layout.xy[2 * index + 1] / 65535 - view.y) * view.scale) * size()];
    const rowOf = (index) => (layout.rows ? layout.rows[index] : index);
    const total = () => layout.xy.length / 2;
    const draw = () => {
      const ratio = devicePixelRatio || 1, side = size();
      canvas.width = canvas.height = Math.round(side * ratio);
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, side, side);
      const palette = Array.from({ length: 10 }, (_, number) => colour("s" + number)), none = colour("faint");
      const radius = Math.min(5, (total() > 20000 ? 1.1 : total() > 4000 ? 1.6 : 2.4) * Math.sqrt(view.scale));
      const round = total() <= 8000;
      for (const faint of only === -2 ? [false] : [true, false]) {
        pen.globalAlpha = faint ? 0.12 : total() > 4000 ? 0.7 : 0.85;
        for (let index = 0; index < total(); index++) {
          const value = group.of[rowOf(index)];
          if (only !== -2 && (value === only) === faint) continue;
          const [x, y] = place(index);
          if (x < -5 || y < -5 || x > side + 5 || y > side + 5) continue;
          pen.fillStyle = value < 0 ? none : palette[value % 10];
          if (round) { pen.beginPath(); pen.arc(x, y, radius + 0.5, 0, 7); pen.fill(); } else pen.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
        }
      }
      pen.globalAlpha = 1;
      if (chosen >= 0) {
        const [x, y] = place(chosen);
        pen.strokeStyle = colour("ink"); pen.lineWidth = 2;
        pen.beginPath(); pen.arc(x, y, 8, 0, 7); pen.stroke();
      }
    };
    const choose = (index) => {
      if (index === chosen) return;
      chosen = index;
      const row = index < 0 ? -1 : rowOf(index), thumb = pictured.get(row);
      small.hidden = thumb === undefined;
      if (thumb !== undefined) {
        const edge = given.thumbs.edge, across = given.thumbs.columns, ink = small.getContext("2d");
        ink.clearRect(0, 0, 88, 88);
        ink.drawImage(sheet, (thumb % across) * edge, Math.floor(thumb / across) * edge, edge, edge, 0, 0, 88, 88);
      }
      if (row >= 0) {
        const lines = groups.map((one) => one.name + ": " + (one.of[row] < 0 ? "none" : one.names[one.of[row]]));
        if (thumb !== undefined) lines.push(given.thumbs.names[thumb]);
        word.replaceChildren(...lines.map((line) => make("div", { textContent: line })));
      }
      draw();
    };
    const nearest = (x, y, wanted) => {
      let best = -1, least = 18 * 18;
      for (let index = 0; index < total(); index++) {
        if (only !== -2 && group.of[rowOf(index)] !== only) continue;
        const [px, py] = place(index), distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least && wanted(index)) { least = distance; best = index; }
      }
      return best;
    };
    const hasPicture = (index) => pictured.has(rowOf(index));
    const zoom = (factor, x, y) => {
      const scale = Math.max(1, Math.min(40, view.scale * factor));
      const keep = (from, at) => Math.max(0, Math.min(1 - 1 / scale, from + at / view.scale - at / scale));
      view = { x: keep(view.x, x), y: keep(view.y, y), scale };
      draw();
    };
    let held = null;
    canvas.onpointermove = (event) => {
      if (held) {
        const room = 1 - 1 / view.scale, within = (value) => Math.max(0, Math.min(room, value));
        view = { ...view, x: within(held.x - (event.offsetX - held.left) / size() / view.scale), y: within(held.y - (event.offsetY - held.top) / size() / view.scale) };
        draw();
        return;
      }
      const found = nearest(event.offsetX, event.offsetY, hasPicture);
      const other = found < 0 ? nearest(event.offsetX, event.offsetY, () => true) : found;
      if (other >= 0) choose(other);
    };
    canvas.onpointerdown = (event) => { if (view.scale > 1) { held = { ...view, left: event.offsetX, top: event.offsetY }; canvas.setPointerCapture(event.pointerId); } };
    canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, event.offsetX / size(), event.offsetY / size());
    }, { passive: false });
    canvas.onkeydown = (event) => {
      const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (event.key === "+" || event.key === "-" || event.key === "0") {
        const [x, y] = chosen < 0 ? [size() / 2, size() / 2] : place(chosen);
        zoom(event.key === "+" ? 1.5 : event.key === "-" ? 1 / 1.5 : 0.001, x / size(), y / size());
      } else if (step && !event.altKey && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        const [x, y] = chosen < 0 ? [size() / 2, size() / 2] : place(chosen);
        let best = -1, least = Infinity;
        for (let index = 0; index < total(); index++) {
          if (index === chosen || !hasPicture(index)) continue;
          const [px, py] = place(index), along = (px - x) * step[0] + (py - y) * step[1], aside = Math.abs((px - x) * step[1]) + Math.abs((py - y) * step[0]);
          if (along <= 0 && chosen >= 0) continue;
          const distance = chosen < 0 ? Math.hypot(px - x, py - y) : along + 3 * aside;
          if (distance < least) { least = distance; best = index; }
        }
        if (best >= 0) choose(best);
      }
    };
    const tools = make("div", { className: "tools" });
    const buttons = layouts.map((one) => {
      const button = make("button", { type: "button", textContent: one.name, title: one.note, ariaPressed: String(one === layout) });
      button.onclick = () => {
        layout = one; chosen = -1; view = { x: 0, y: 0, scale: 1 };
        buttons.forEach((other) => { other.ariaPressed = String(other === button); });
        note.textContent = one.name + ": " + one.note; draw();
      };
      return button;
    });
    const note = document.querySelector(".map-note");
    const by = make("select"), which = make("select");
    groups.forEach((one, number) => by.append(make("option", { value: number, textContent: one.name })));
    const fill = () => {
      which.replaceChildren(make("option", { value: -2, textContent: "all" }), ...group.names.map((name, number) => make("option", { value: number, textContent: name })));
      only = -2;
    };
    by.onchange = () => { group = groups[by.value]; fill(); draw(); };
    which.onchange = () => { only = Number(which.value); draw(); };
    fill();
    tools.append(...buttons);
    if (groups.length > 1) tools.append(make("label", { textContent: "Colour " }, by));
    if (group.names.length) tools.append(make("label", { textContent: "Show " }, which));
    for (const [sign, name, factor] of [["+", "Enlarge", 1.5], ["−", "Shrink", 1 / 1.5]]) {
      const button = make("button", { type: "button", textContent: sign, ariaLabel: name + " the map" });
      button.onclick = () => zoom(factor, 0.5, 0.5);
      tools.append(button);
    }
    still.style.display = "none";
    still.after(canvas);
    holder.before(tools);
    holder.append(told);
    sheet.onload = () => { if (chosen >= 0) { const index = chosen; chosen = -1; choose(index); } };
    draw();
    redraw.push(draw);
  };
  const holder = document.querySelector(".map");
  if (holder && data.map) map(holder, data.map);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => redraw.forEach((draw) => draw()), 100); });
})();
