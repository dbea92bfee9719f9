// The pictures of the explorer, as SVG in the pixels of the element that holds them.
"use strict";

globalThis.equipoise.pictures = (() => {
  const { GAMES } = globalThis.equipoise;
  const THUMB = 16; // width of the slider's thumb, as in explorer.css

  function svg(tag, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  const label = (text, x, y, anchor = "start") => svg("text", { x, y, "text-anchor": anchor }, text);
  const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
  // An arrowhead with its tip at a place, in the direction of a unit vector.
  const head = (x, y, dx, dy) => {
    const corners = [[0, 0], [-6, 2.5], [-6, -2.5]].map(([a, b]) => [x + a * dx - b * dy, y + a * dy + b * dx]);
    return svg("polygon", { points: corners.join(" "), class: "faint-dot" });
  };
  const dot = ([cx, cy], r, kind) => svg("circle", { cx, cy, r, class: kind });

  // A square window onto the plane with the given reach on both sides of the origin.
  function plane(holder, reach) {
    const size = holder.clientWidth, middle = size / 2, scale = middle / reach;
    const at = ([x, y]) => [middle + x * scale, middle - y * scale];
    const inside = ([x, y]) => Math.abs(x) <= reach && Math.abs(y) <= reach;
    return { size, middle, scale, at, inside };
  }

  function show(holder, description, width, height, parts) {
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": description,
    });
    picture.append(...parts);
    holder.replaceChildren(picture);
  }

  const number = (value, digits = 4) => {
    if (!Number.isFinite(value)) return "∞";
    const rounded = Number(value.toPrecision(digits));
    return String(rounded).replaceAll("-", "−");
  };

  // How far the window on play reaches: it depends on the start alone, so that it holds still.
  const playReach = ([x, y]) => 2.6 * Math.max(Math.abs(x), Math.abs(y), 0.02);

  function play(holder, { game, gameName, path, verdict, start }) {
    const reach = playReach(start), { size, middle, at } = plane(holder, reach);
    const [horizontal, vertical] = GAMES[gameName].axes;
    const arrows = [];
    for (let i = -5; i <= 5; i++) {
      for (let j = -5; j <= 5; j++) {
        const here = [(i * reach) / 5.5, (j * reach) / 5.5], [u, v] = game.field(here);
        const speed = Math.hypot(u, v);
        if (speed === 0) continue;
        const [x, y] = at(here), dx = (-9 * u) / speed, dy = (9 * v) / speed;
        arrows.push(line(x - dx, y - dy, x + dx, y + dy, "faint"), head(x + dx, y + dy, dx / 9, dy / 9));
      }
    }
    // Far points are cut off: a picture cannot hold 1e300.
    const end = path.findIndex((z) => !(Math.hypot(...z) < 50 * reach));
    const seen = (end < 0 ? path : path.slice(0, end + 1)).filter((z) => z.every(Number.isFinite));
    const points = seen.map((z) => at(z).map((c) => Math.max(-1e5, Math.min(1e5, c)).toFixed(2)));
    show(holder, `Play in the plane: ${path.length - 1} steps`, size, size, [
      line(0, middle, size, middle, "axis"), line(middle, 0, middle, size, "axis"), ...arrows,
      svg("polyline", { points: points.join(" "), class: `path ${verdict}` }),
      ...points.slice(1).map((p) => dot(p, 2.2, `step ${verdict}`)),
      svg("rect", { x: points[0][0] - 5, y: points[0][1] - 5, width: 10, height: 10, class: "start" }),
      dot(at([0, 0]), 4, "nash"),
      label(horizontal, size - 6, middle - 6, "end"), label(vertical, middle + 6, 14),
      label(number(reach, 2), size - 6, middle + 16, "end"), label(number(reach, 2), middle - 6, 14, "end"),
    ]);
  }

  const eigenvalueText = ([a, b]) => {
    const [real, imaginary] = [a, b].map((part) => (Math.abs(part) < 1e-6 ? 0 : part));
    if (imaginary === 0) return number(real, 3);
    return `${number(real, 3)} ${imaginary < 0 ? "−" : "+"} ${number(Math.abs(imaginary), 3)}i`;
  };

  function eigenvalues(holder, { spectrum, grid }) {
    const { size, middle, scale, at, inside } = plane(holder, 1.75);
    const trace = grid.flatMap((s) => s.values).filter(inside);
    const text = spectrum.values.map(eigenvalueText).join(", ");
    show(holder, `Eigenvalues against the unit circle: ${text}`, size, size, [
      line(0, middle, size, middle, "axis"), line(middle, 0, middle, size, "axis"),
      dot([middle, middle], scale, "circle"),
      ...trace.map((v) => dot(at(v), 1, "faint-dot")),
      ...spectrum.values.filter(inside).map((v) => dot(at(v), 6, `eigenvalue ${spectrum.verdict}`)),
      label("Re λ", size - 6, middle - 6, "end"), label("Im λ", middle + 6, 14),
      label("1", middle + scale + 5, middle + 16),
    ]);
    return text;
  }

  // The spectral radius over the step size, right above the slider and on its scale.
  function rates(holder, { grid, step, neutral, spectrum }) {
    const width = holder.clientWidth, height = 130, bottom = height - 12;
    const first = grid[0].eta, last = grid[grid.length - 1].eta;
    const x = (eta) => THUMB / 2 + ((eta - first) / (last - first)) * (width - THUMB);
    const y = (rho) => bottom - (rho / 2) * (bottom - 18);
    const parts = [line(0, y(1), width, y(1), "axis"), label("ρ = 1", 2, y(1) - 4)];
    grid.slice(1).forEach((right, k) => {
      const left = grid[k], kind = right.verdict;
      if (left.radius < 2.3) parts.push(line(x(left.eta), y(left.radius), x(right.eta), y(right.radius), `rate ${kind}`));
      parts.push(line(x(left.eta), height - 4, x(right.eta) + 0.5, height - 4, `strip ${kind}`));
    });
    const marks = [[step, "η*"], ...(neutral > step ? [[neutral, "bounded to"]] : [])];
    for (const [eta, name] of marks) {
      if (!(eta > 0 && eta < Infinity)) continue;
      const side = x(eta) > width / 2 ? "end" : "start";
      parts.push(line(x(eta), 4, x(eta), height, "critical"));
      const sign = name === "η*" ? " = " : " ";
      parts.push(label(name + sign + number(eta), x(eta) + (side === "end" ? -5 : 5), 14, side));
    }
    parts.push(dot([x(spectrum.eta), y(spectrum.radius)], 6, `eigenvalue ${spectrum.verdict}`));
    const described = `Spectral radius over the step size; here ${number(spectrum.radius)}`;
    show(holder, described, width, height, parts);
  }

  return { play, eigenvalues, rates, number, playReach };
})();
