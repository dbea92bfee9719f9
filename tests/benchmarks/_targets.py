"""What ways to posterior draws are held to: reference posteriors, and hard targets of the tests."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from equipoise import vi
from tests.benchmarks._samplers import CHUNK
from tests.vi.fit import hard_models
from tests.vi.fit.test_escalation import TARGETS
from tests.vi.fit.test_posteriors import names, reference


class Right(NamedTuple):
    """What draws are held to: means and sds of numbers that are functions of a flat vector."""

    log_density: object
    size: int
    numbers: object
    mean: np.ndarray
    sd: np.ndarray
    example: object
    support: object = None
    named: object = None  # the density of positions like the example, where it is another

    def error(self, draws):
        """The largest error of a mean and of an sd, as a part of what is allowed."""
        # In parts of one size, as another size would compile anew.
        parts = np.reshape(draws, (-1, CHUNK, self.size))
        values = np.concatenate([self.numbers(part) for part in parts])
        mean = np.abs(values.mean(axis=0) - self.mean) / self.sd / 0.25
        return float(np.max(np.maximum(mean, np.abs(values.std(axis=0) / self.sd - 1) / 0.1)))


def of_posterior(name):
    """One of the reference posteriors."""
    found = reference().build(name)
    numbers = jax.jit(jax.vmap(found["constrain"]))
    return Right(
        found["logp"], found["dim"], numbers, found["mean"], found["sd"], np.zeros(found["dim"])
    )


def of_target(name):
    """A hard target with its exact moments."""
    log_density, example, mean, sd = TARGETS[name]
    return Right(log_density, len(example), lambda draws: draws, mean, sd, example)


def of_model(name):
    """A hard model in the flat coordinates that all ways are given, held to long chains of NUTS."""
    log_density, example, support = getattr(hard_models, name)()
    moments = hard_models.REFERENCES[name]["moments"]
    flat = vi.mean_field(example, support=support)

    @jax.jit
    @jax.vmap
    def numbers(draw):
        position = flat.unravel(draw)
        return jnp.concatenate([jnp.ravel(position[leaf]) for leaf in moments])

    mean, sd = (np.concatenate([np.ravel(moments[leaf][i]) for leaf in moments]) for i in (0, 1))

    def on_flat(z):
        return log_density(flat.unravel(z)) + flat.log_volume(z)

    return Right(on_flat, flat.dimension, numbers, mean, sd, example, support, log_density)


def targets(words):
    """Names and targets whose names hold one of the words, or all."""
    made = dict.fromkeys(names(), of_posterior)
    made |= dict.fromkeys(TARGETS, of_target) | dict.fromkeys(hard_models.REFERENCES, of_model)
    for name, make in made.items():
        if not words or any(word in name for word in words):
            yield name, make(name)
