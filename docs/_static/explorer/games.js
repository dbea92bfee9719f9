// The mathematics of the explorer: two-player games, update rules and spectra. It knows of no page;
// tests/docs/test_explorer.py holds every number of it against equipoise.games.
"use strict";

globalThis.equipoise = (() => {
  // A zero-sum game is its vector field F(z) = (∂f/∂x, −∂f/∂y) with the Jacobian of F.
  // Every game here has its equilibrium at the origin.
  const quadratic = (mu, sigma) => linear([[mu, sigma], [-sigma, mu]]);

  const linear = (J) => ({ field: (z) => apply(J, z), jacobian: () => J });

  const dirac = (gamma) => {
    const slope = (t) => 1 / (1 + Math.exp(t)); // derivative of log σ
    return {
      field: ([x, y]) => [slope(x * y) * y, gamma * y - slope(x * y) * x],
      jacobian: ([x, y]) => {
        const s = slope(x * y), bend = -s * (1 - s);
        return [[bend * y * y, s + bend * x * y], [-s - bend * x * y, gamma - bend * x * x]];
      },
    };
  };

  const GAMES = {
    pq: {
      label: "p q", axes: ["p, minimizes", "q, maximizes"], maxStep: 3, parameters: [],
      make: () => quadratic(0, 1),
    },
    quadratic: {
      label: "½ μ x² + σ x y − ½ μ y²", axes: ["x, minimizes", "y, maximizes"], maxStep: 3,
      parameters: [
        { id: "mu", symbol: "μ", meaning: "curvature", min: 0, max: 2, step: 0.05, value: 0.5 },
        { id: "sigma", symbol: "σ", meaning: "coupling", min: 0.1, max: 2, step: 0.05, value: 1 },
      ],
      make: ({ mu, sigma }) => quadratic(mu, sigma),
    },
    dirac: {
      label: "Dirac GAN", axes: ["generator θ", "discriminator ψ"], maxStep: 6,
      parameters: [
        { id: "gamma", symbol: "γ", meaning: "gradient penalty", min: 0, max: 2, step: 0.05, value: 0.5 },
      ],
      make: ({ gamma }) => dirac(gamma),
    },
  };

  // Vectors and matrices are arrays.
  const apply = (A, v) => A.map((row) => row.reduce((sum, a, j) => sum + a * v[j], 0));
  const transposed = (A) => A[0].map((_, j) => A.map((row) => row[j]));
  const plus = (v, t, w) => v.map((a, i) => a + t * w[i]);
  const solve2 = ([[a, b], [c, d]], [u, v]) => {
    const det = a * d - b * c;
    return [(d * u - b * v) / det, (a * v - c * u) / det];
  };
  const largest = (v) => Math.max(...v.map(Math.abs));

  // z with z = start − ηF(z), by Newton's method with the best of eight step lengths.
  function implicitStep(game, start, eta) {
    const mismatch = (z) => plus(plus(z, -1, start), eta, game.field(z));
    let z = start;
    for (let i = 0; i < 20; i++) {
      const [[a, b], [c, d]] = game.jacobian(z);
      const matrix = [[1 + eta * a, eta * b], [eta * c, 1 + eta * d]];
      const direction = solve2(matrix, mismatch(z));
      const tries = [...Array(8).keys()].map((k) => plus(z, -(0.5 ** k), direction));
      const best = tries.reduce((u, v) => (largest(mismatch(v)) < largest(mismatch(u)) ? v : u));
      if (!(largest(mismatch(best)) < largest(mismatch(z)))) break;
      z = best;
    }
    return z;
  }

  // A rule is a step of the full state: the two players, then what the rule remembers.
  const nothing = () => [];
  const beta = { id: "beta", symbol: "β", meaning: "momentum", min: -0.9, max: 0.9, step: 0.05, value: -0.5 };
  const rule = (label, parameter, step, remember = nothing) => ({ label, parameter, step, remember });

  const RULES = {
    simultaneous: rule("simultaneous", null, (game, z, eta) => plus(z, -eta, game.field(z))),

    alternating: rule("alternating", null, (game, [x, y], eta) => {
      const moved = x - eta * game.field([x, y])[0];
      return [moved, y - eta * game.field([moved, y])[1]];
    }),

    extragradient: rule("extragradient", null, (game, z, eta) =>
      plus(z, -eta, game.field(plus(z, -eta, game.field(z))))),

    optimistic: rule("optimistic", null, (game, [x, y, ...past], eta) => {
      const now = game.field([x, y]);
      return [...plus([x, y], -eta, plus(now, 1, plus(now, -1, past))), ...now];
    }, (game, z) => game.field(z)),

    momentum: rule("momentum, simultaneous", beta, (game, [x, y, ...v], eta, b) => {
      const velocity = plus(v.map((w) => b * w), -eta, game.field([x, y]));
      return [...plus([x, y], 1, velocity), ...velocity];
    }, () => [0, 0]),

    alternating_momentum: rule("momentum, alternating", beta, (game, [x, y, v, w], eta, b) => {
      const dx = b * v - eta * game.field([x, y])[0];
      const dy = b * w - eta * game.field([x + dx, y])[1];
      return [x + dx, y + dy, dx, dy];
    }, () => [0, 0]),

    consensus: rule("consensus",
      { id: "weight", symbol: "γ", meaning: "consensus weight", min: 0.05, max: 2, step: 0.05, value: 0.5 },
      (game, z, eta, gamma) => {
        const F = game.field(z), pull = apply(transposed(game.jacobian(z)), F);
        return plus(z, -eta, plus(F, gamma, pull));
      }),

    symplectic_adjustment: rule("symplectic adjustment",
      { id: "lambda", symbol: "λ", meaning: "adjustment weight", min: 0.05, max: 2, step: 0.05, value: 0.5 },
      (game, z, eta, lambda) => {
        const F = game.field(z), J = game.jacobian(z);
        const twist = plus(apply(transposed(J), F), -1, apply(J, F));
        return plus(z, -eta, plus(F, lambda / 2, twist));
      }),

    lola: rule("LOLA",
      { id: "lookahead", symbol: "α", meaning: "imagined step", min: 0.05, max: 2, step: 0.05, value: 0.5 },
      (game, [x, y], eta, alpha) => {
        const [Fx, Fy] = game.field([x, y]), J = game.jacobian([x, y]);
        const seenByX = game.field([x, y - alpha * Fy]), seenByY = game.field([x - alpha * Fx, y]);
        return [
          x - eta * (seenByX[0] + alpha * seenByX[1] * J[1][0]),
          y - eta * (seenByY[1] + alpha * seenByY[0] * J[0][1]),
        ];
      }),

    competitive: rule("competitive", null, (game, z, eta) => {
      const J = game.jacobian(z);
      const matrix = [[1, eta * J[0][1]], [eta * J[1][0], 1]];
      return plus(z, -eta, solve2(matrix, game.field(z)));
    }),

    proximal_point: rule("proximal point (implicit)", null, implicitStep),

    primal_dual_hybrid: rule("primal–dual hybrid",
      { id: "theta", symbol: "θ", meaning: "extrapolation", min: 0, max: 1, step: 0.05, value: 1 },
      (game, [x, y], eta, theta) => {
        const moved = x - eta * game.field([x, y])[0];
        return [moved, y - eta * game.field([moved + theta * (moved - x), y])[1]];
      }),
  };

  function simulate(game, { step, remember }, parameter, start, eta, numSteps) {
    let state = [...start, ...remember(game, start)];
    const path = [start];
    for (let t = 0; t < numSteps; t++) {
      state = step(game, state, eta, parameter);
      path.push(state.slice(0, 2));
    }
    return path;
  }

  // At an equilibrium F vanishes, so there a rule's derivative is the rule played on the linear
  // game F(z) = J z: its matrix has the steps of the unit vectors as columns.
  function updateMatrix(game, { step, remember }, parameter, eta) {
    const flat = linear(game.jacobian([0, 0])), size = 2 + remember(flat, [0, 0]).length;
    const unit = (i) => [...Array(size).keys()].map((j) => (i === j ? 1 : 0));
    return transposed([...Array(size).keys()].map((i) => step(flat, unit(i), eta, parameter)));
  }

  // Coefficients c₀ … cₙ = 1 of det(λ − A) in powers of λ (Faddeev and LeVerrier).
  function characteristicPolynomial(A) {
    const n = A.length, c = Array(n + 1).fill(0);
    c[n] = 1;
    let M = A.map((row) => row.map(() => 0));
    for (let k = 1; k <= n; k++) {
      const columns = transposed(M).map((column) => apply(A, column));
      M = transposed(columns).map((row, i) => row.map((m, j) => m + (i === j ? c[n - k + 1] : 0)));
      const trace = A.reduce((sum, row, i) => sum + row.reduce((s, a, j) => s + a * M[j][i], 0), 0);
      c[n - k] = -trace / k;
    }
    return c;
  }

  // Complex numbers are pairs.
  const times = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];
  const minus = ([a, b], [c, d]) => [a - c, b - d];
  const over = ([a, b], [c, d]) => {
    const size = c * c + d * d;
    return [(a * c + b * d) / size, (b * c - a * d) / size];
  };
  const modulus = ([a, b]) => Math.hypot(a, b);

  // All roots at once (Durand and Kerner); multiple roots to about the root of rounding.
  function roots(c) {
    const n = c.length - 1, radius = Math.max(...c.map(Math.abs));
    let z = [...Array(n).keys()].map((k) => {
      const angle = (2 * Math.PI * k) / n + 0.4;
      return [radius * Math.cos(angle), radius * Math.sin(angle)];
    });
    for (let i = 0; i < 60; i++) {
      let moved = 0;
      z = z.map((root, k) => {
        const value = c.reduceRight((sum, a) => plus(times(sum, root), 1, [a, 0]), [0, 0]);
        const others = z.reduce((p, w, j) => (j === k ? p : times(p, minus(root, w))), [1, 0]);
        if (modulus(others) === 0) return root;
        const change = over(value, others);
        moved = Math.max(moved, modulus(change));
        return minus(root, change);
      });
      if (moved < 1e-15 * radius) break;
    }
    return z;
  }

  function eigenvalues(A) {
    if (A.length > 2) return roots(characteristicPolynomial(A));
    // For two rows the formula is exact where the polynomial would lose half of the digits.
    const [[a, b], [c, d]] = A, mean = (a + d) / 2, half = (a - d) / 2;
    const disc = half * half + b * c, root = Math.sqrt(Math.abs(disc));
    return disc < 0 ? [[mean, root], [mean, -root]] : [[mean + root, 0], [mean - root, 0]];
  }

  // How many independent eigenvectors belong to λ: the nullity of A − λ, by elimination.
  function nullity(A, lambda, slack) {
    const rows = A.map((row, i) => row.map((a, j) => minus([a, 0], i === j ? lambda : [0, 0])));
    let rank = 0;
    for (let j = 0; j < rows.length; j++) {
      const size = (i) => modulus(rows[i][j]);
      let pivot = rank;
      for (let i = rank; i < rows.length; i++) if (size(i) > size(pivot)) pivot = i;
      if (pivot >= rows.length || size(pivot) <= slack) continue;
      [rows[rank], rows[pivot]] = [rows[pivot], rows[rank]];
      for (let i = rank + 1; i < rows.length; i++) {
        const factor = over(rows[i][j], rows[rank][j]);
        rows[i] = rows[i].map((a, k) => minus(a, times(factor, rows[rank][k])));
      }
      rank++;
    }
    return rows.length - rank;
  }

  // What counts as on the circle, and as one eigenvalue: multiple ones lose half of their digits.
  const ON_CIRCLE = 1e-7, MEET = 1e-5;

  function spectrum(game, rule, parameter, eta) {
    const matrix = updateMatrix(game, rule, parameter, eta), values = eigenvalues(matrix);
    const radius = Math.max(...values.map(modulus));
    const on = values.filter((v) => Math.abs(modulus(v) - 1) <= ON_CIRCLE);
    const defective = on.some((v) => {
      const count = on.filter((w) => modulus(minus(v, w)) <= MEET).length;
      return count > 1 && nullity(matrix, v, MEET) < count;
    });
    const verdict =
      radius > 1 + ON_CIRCLE || defective ? "diverges" : on.length ? "neutral" : "converges";
    return { eta, values, radius, verdict };
  }

  // Spectra on the slider's grid, and the two step sizes where play stops converging and stops
  // being bounded: 0 where it never is, infinite where it is up to the end of the slider.
  function scan(game, rule, parameter, maxStep, count) {
    const at = (eta) => spectrum(game, rule, parameter, eta);
    const grid = [...Array(count).keys()].map((k) => at((maxStep * (k + 1)) / count));
    const firstWhere = (lost) => {
      const k = grid.findIndex(lost);
      if (k < 0) return Infinity;
      if (k === 0) return 0;
      let [low, high] = [grid[k - 1].eta, grid[k].eta];
      for (let i = 0; i < 50; i++) {
        const middle = (low + high) / 2;
        if (lost(at(middle))) high = middle; else low = middle;
      }
      return high;
    };
    const step = firstWhere((s) => s.radius >= 1 - ON_CIRCLE);
    const neutral = firstWhere((s) => s.radius > 1 + ON_CIRCLE);
    // One crossing loses both: the two ways to look for it differ by the width of the circle.
    const bounded = neutral - step < 1e-5 ? step : neutral;
    return { grid, step, neutral: bounded, kind: kindOf(at, step || bounded) };
  }

  function kindOf(at, eta) {
    if (!(eta > 0 && eta < Infinity)) return "not lost";
    const { values, radius } = at(eta);
    const top = values.filter((v) => modulus(v) > radius - MEET);
    const angle = Math.max(...top.map(([a, b]) => Math.abs(Math.atan2(b, a))));
    return angle < 1e-3 ? "fold" : angle > Math.PI - 1e-3 ? "flip" : "Neimark-Sacker";
  }

  return { GAMES, RULES, simulate, updateMatrix, eigenvalues, spectrum, scan };
})();
