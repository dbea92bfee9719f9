// The page of the explorer: its controls, and what they say in words.
"use strict";

(() => {
  const { GAMES, RULES, simulate, spectrum, scan, pictures } = globalThis.equipoise;
  const { number, playReach } = pictures;
  const POSITIONS = 600; // of the step slider
  const SCANNED = 300;

  const PRESETS = [
    ["A cycle of six steps", { game: "pq", rule: "alternating", step: 1 }],
    ["A small step spirals out too", { game: "pq", rule: "simultaneous", step: 0.1 }],
    ["Extragradient converges", { game: "pq", rule: "extragradient", step: 0.6 }],
    ["Negative momentum, in turns", { game: "pq", rule: "alternating_momentum", beta: -0.5, step: 0.7 }],
    ["Turns are less stable here", { game: "quadratic", rule: "alternating", mu: 1.5, sigma: 0.5, step: 1.1 }],
    ["Stable only nearby", { game: "dirac", rule: "simultaneous", gamma: 1, step: 3.9, x: 0.3, y: 0.3, steps: 300 }],
  ];

  const root = document.getElementById("explorer-app");
  const START = [
    { id: "x", symbol: "x₀", meaning: "start of the first player", min: -2, max: 2, step: 0.05, value: 1 },
    { id: "y", symbol: "y₀", meaning: "start of the second player", min: -2, max: 2, step: 0.05, value: 1 },
    { id: "steps", symbol: "T", meaning: "number of steps", min: 1, max: 400, step: 1, value: 60 },
  ];
  const parametersOf = (state) => [
    ...GAMES[state.game].parameters,
    ...(RULES[state.rule].parameter ? [RULES[state.rule].parameter] : []),
  ];
  const everyParameter = [
    ...Object.values(GAMES).flatMap((game) => game.parameters),
    ...Object.values(RULES).flatMap((rule) => rule.parameter ?? []), ...START,
  ];
  const state = {
    game: "pq", rule: "alternating", step: 1,
    ...Object.fromEntries(everyParameter.map(({ id, value }) => [id, value])),
  };

  function html(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function choice(id, text, entries) {
    const select = html("select", { id: `explorer-${id}` },
      ...Object.entries(entries).map(([value, { label }]) => html("option", { value }, label)));
    select.addEventListener("change", () => {
      state[id] = select.value;
      rebuild();
    });
    return [select, html("div", {}, html("label", { for: select.id }, text), select)];
  }

  function slider({ id, symbol, meaning, min, max, step }) {
    const input = html("input", { type: "range", id: `explorer-${id}`, min, max, step });
    const output = html("output", { for: input.id });
    const write = () => {
      input.value = state[id];
      output.textContent = `${symbol} = ${number(state[id], 3)}`;
    };
    input.addEventListener("input", () => {
      state[id] = input.valueAsNumber;
      write();
      redraw({ scanned: !START.some((s) => s.id === id) });
    });
    write();
    return { write, node: html("div", {}, html("label", { for: input.id }, `${meaning} `, output), input) };
  }

  const [gameSelect, gameLabel] = choice("game", "Game", GAMES);
  const [ruleSelect, ruleLabel] = choice("rule", "Update rule", RULES);
  const parameters = html("div", { class: "explorer-parameters" });
  const starts = START.map(slider);
  const stepInput = html("input", { type: "range", id: "explorer-step" });
  const stepOutput = html("output", { for: stepInput.id });
  const verdict = html("p", { class: "explorer-verdict" });
  const details = html("p", { class: "explorer-details" });
  const spoken = html("p", { class: "visually-hidden", role: "status" });
  const [rates, play, circle] = ["rates", "play", "circle"].map((name) => html("div", { class: `explorer-${name}` }));
  const eigenvalueList = html("span");
  let scanned, speak;

  stepInput.addEventListener("input", () => {
    state.step = stepInput.valueAsNumber;
    redraw();
  });
  play.addEventListener("pointerdown", (event) => {
    const box = play.getBoundingClientRect(), reach = playReach([state.x, state.y]);
    const along = (at, size) => Math.round((at / size - 0.5) * 40 * reach) / 20;
    const clipped = (v) => Math.max(-2, Math.min(2, v));
    state.x = clipped(along(event.clientX - box.left, box.width));
    state.y = clipped(-along(event.clientY - box.top, box.height));
    starts.forEach(({ write }) => write());
    redraw();
  });

  root.replaceChildren(
    html("div", { class: "explorer-presets", role: "group", "aria-label": "Settings to try" },
      ...PRESETS.map(([text, preset]) => {
        const button = html("button", { type: "button", class: "btn btn-sm btn-outline-primary" }, text);
        button.addEventListener("click", () => rebuild({ x: 1, y: 1, steps: 60, ...preset }));
        return button;
      })),
    html("div", { class: "explorer-controls" }, gameLabel, ruleLabel, parameters),
    html("div", { class: "explorer-step" }, rates, stepInput,
      html("label", { for: stepInput.id }, "step size ", stepOutput)),
    verdict, details, spoken,
    html("div", { class: "explorer-panels" },
      html("figure", {}, html("figcaption", {}, "Play, from the square; the dot is the equilibrium, arrows show where small steps lead"), play),
      html("figure", {}, html("figcaption", {}, "Eigenvalues of one step, faint at other step sizes: ", eigenvalueList), circle)),
    html("details", {}, html("summary", {}, "Start and length of play"),
      html("div", { class: "explorer-parameters" }, ...starts.map(({ node }) => node))),
  );

  // After a change of game, rule or preset the controls themselves are others.
  function rebuild(changes = {}) {
    Object.assign(state, changes);
    const { maxStep } = GAMES[state.game], spacing = maxStep / POSITIONS;
    Object.assign(stepInput, { min: spacing, max: maxStep, step: spacing });
    gameSelect.value = state.game;
    ruleSelect.value = state.rule;
    state.step = Math.min(state.step, maxStep);
    parameters.replaceChildren(...parametersOf(state).map((p) => slider(p).node));
    starts.forEach(({ write }) => write());
    redraw({ scanned: true });
  }

  function redraw(changed = {}) {
    const game = GAMES[state.game].make(state), rule = RULES[state.rule];
    const parameter = state[rule.parameter?.id], start = [state.x, state.y];
    if (changed.scanned) scanned = scan(game, rule, parameter, GAMES[state.game].maxStep, SCANNED);
    const here = spectrum(game, rule, parameter, state.step);
    const path = simulate(game, rule, parameter, start, state.step, state.steps);
    pictures.rates(rates, { ...scanned, spectrum: here });
    pictures.play(play, { game, gameName: state.game, path, verdict: here.verdict, start });
    eigenvalueList.textContent = pictures.eigenvalues(circle, { grid: scanned.grid, spectrum: here });
    stepInput.value = state.step;
    stepOutput.textContent = `η = ${number(state.step)}`;
    stepInput.setAttribute("aria-valuetext", `${number(state.step)}, ${here.verdict}`);
    verdict.className = `explorer-verdict ${here.verdict}`;
    verdict.textContent = verdictText(here);
    details.textContent = `${criticalText(scanned)} ${pathText(path)}`;
    clearTimeout(speak); // spoken once the slider rests
    speak = setTimeout(() => { spoken.textContent = `${verdict.textContent} ${details.textContent}`; }, 500);
  }

  function verdictText({ verdict: word, radius }) {
    const rho = `ρ = ${number(radius)}`;
    if (word === "converges") return `Converges: ${rho}. Near the equilibrium a step shrinks the distance, in the long run, by this factor.`;
    if (word === "neutral") return `Neutral: ${rho}. Play stays at its distance. It does not diverge, and it does not converge.`;
    return radius > 1 + 1e-7
      ? `Diverges: ${rho}. Near the equilibrium a step stretches the distance, in the long run, by this factor.`
      : `Diverges: ${rho}, but two eigenvalues meet on the circle, and the distance grows with the number of steps.`;
  }

  const LOSSES = {
    "fold": "an eigenvalue passes 1, and play drifts away",
    "flip": "an eigenvalue passes −1, and play jumps from side to side",
    "Neimark-Sacker": "a pair of eigenvalues leaves the circle, and play spirals out",
  };

  function criticalText({ step, neutral, kind }) {
    const { maxStep } = GAMES[state.game], name = RULES[state.rule].label;
    if (step === Infinity) return `This rule converges for every step size up to ${maxStep}, the end of the slider.`;
    if (step > 0) return `It converges below the critical step η* = ${number(step)}: there ${LOSSES[kind]}.`;
    if (neutral === 0) return `At no step size does ${name} play converge on this game, however small.`;
    const end = neutral === Infinity ? `up to ${maxStep}, the end of the slider` : `up to η = ${number(neutral)}`;
    return `At no step size does ${name} play converge on this game: it is neutral ${end}.`;
  }

  function pathText(path) {
    const [first, last] = [path[0], path[path.length - 1]].map((z) => Math.hypot(...z));
    if (first === 0) return "This play starts at the equilibrium and stays there.";
    const local = state.game === "dirac" ? " The verdict holds near the equilibrium; from a distant start play may end elsewhere." : "";
    return `This play: distance × ${number(last / first, 3)} after ${path.length - 1} steps.${local}`;
  }

  // Settings may come with the address, as in explorer.html?game=pq&rule=alternating&step=1.
  const asked = new URLSearchParams(location.search), settings = {};
  for (const { id, min, max } of [...everyParameter, { id: "step", min: 0.005, max: 6 }]) {
    const value = Number.parseFloat(asked.get(id));
    if (value >= min && value <= max) settings[id] = value;
  }
  if (Object.hasOwn(GAMES, asked.get("game"))) settings.game = asked.get("game");
  if (Object.hasOwn(RULES, asked.get("rule"))) settings.rule = asked.get("rule");
  rebuild(settings);
  new ResizeObserver(() => redraw()).observe(root);
})();
