from tests.contract import Case, Pytree, Static  # noqa: F401

CASES: dict = {}
