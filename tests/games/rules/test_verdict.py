"""Verdicts and kinds: integers with words and sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise import games


@pytest.mark.parametrize("words", [games.Verdict, games.Kind])
def test_verdict_and_kind_say_a_word_and_a_sentence(words):
    assert len({member.word for member in words}) == len(words)
    for member in words:
        assert member.word.islower() or member is games.NEIMARK_SACKER
        assert member.sentence[0].isupper()
        assert member.sentence.endswith(".")
        assert words(int(member)) is member


def test_verdict_members_are_the_public_names():
    assert list(games.Verdict) == [
        games.CONVERGES,
        games.NEUTRAL,
        games.DIVERGES,
        games.UNDEFINED,
    ]
    assert [int(verdict) for verdict in games.Verdict] == [-1, 0, 1, 2]
    assert list(games.Kind) == [games.NOT_LOST, games.FOLD, games.FLIP, games.NEIMARK_SACKER]
    assert [int(kind) for kind in games.Kind] == [0, 1, 2, 3]


def test_verdict_travels_through_compiled_programs_as_an_integer():
    verdicts = jnp.array([-1, 0, 1, 2], jnp.int32)
    for i, member in enumerate(games.Verdict):
        expected = np.arange(4) == i
        np.testing.assert_array_equal(verdicts == member, expected)
        np.testing.assert_array_equal(jax.jit(lambda v, m=member: v == m)(verdicts), expected)
    chosen = jax.jit(lambda v: jnp.where(v == games.UNDEFINED, games.NEUTRAL, v))(verdicts)
    assert chosen.dtype == jnp.int32
    assert chosen.tolist() == [-1, 0, 1, 0]
