"""All models in each of their uses against the compiler: operations, lines, largest batch."""

import pytest

from equipoise import cost
from tests.cost.compiled import CASES, analyzed, operations, taken
from tests.cost.test_peak import GAPS, from_0_10

QUICK = ("autoencoder: step", "adversaries: inference", "long memory: inference")
# XLA counts the body of a loop once; tests of single programs write their loops out.
LOOPS = (
    "recurrent",
    "scanned",
    "equation",
    "long memory",
    "transducer",
    "selective",
    "decoder",
    "policy",
)
COUNTED = [name for name in CASES if not any(loop in name for loop in LOOPS)]


def check_flops(name):
    # A scalar more or less where sizes are names, and how a few primitives are written out.
    assert analyzed(name).flops.evaluate(b=CASES[name][-1]) == pytest.approx(
        operations(name), rel=0.01
    ), name


def check_lines(name):
    found = analyzed(name)
    for libraries in (False, True):
        assert sum(found.by("line", libraries=libraries).values()) == found.flops, name


def check_largest(name):
    """The memory in the middle between those of four and of five parts of a batch."""
    part = CASES[name][-1] // 4
    bound = (taken(name, 4 * part) + taken(name, 5 * part)) // 2
    peak = analyzed(name).peak_bytes.substitute(b=part * cost.Expression("b"))
    found = peak.largest("b", at_most=bound)
    assert found in (3, 4), name
    assert taken(name, found * part) <= bound < taken(name, 5 * part), name


@pytest.mark.parametrize("name", [name for name in QUICK if name in COUNTED])
def test_analyze_flops_are_those_of_xla_for_models(name):
    check_flops(name)


@pytest.mark.parametrize("name", QUICK)
def test_by_line_sums_to_the_whole_for_models(name):
    check_lines(name)


@pytest.mark.slow
@pytest.mark.parametrize(("check", "names"), [(check_flops, COUNTED), (check_lines, list(CASES))])
def test_analyze_counts_all_models(check, names):
    for name in names:
        check(name)


@from_0_10
@pytest.mark.slow
def test_largest_batch_is_the_compilers_or_one_less_for_all_models():
    for name in CASES:
        if name.endswith(": donated step") and name not in GAPS:
            check_largest(name)
