r"""Variational inference that measures itself.

.. math::

    \log p(x) = \underbrace{\mathbb{E}_q[\log p(x, z) - \log q(z)]}_{\text{ELBO}}
    + \operatorname{KL}\bigl(q \,\|\, p(\cdot \mid x)\bigr)

Start with ``fit``: its defaults need no tuning, and its result says whether it may be used, and if
not, why. Families are the approximations q; supports map constrained positions to real vectors.
The bound, its two terms and its tighter relatives come with standard errors, and ``diagnose`` and
``gradient_variance`` measure what is otherwise hoped for.
"""

from equipoise._types import legible as _legible
from equipoise.vi._bounds.annealed import annealed_bound
from equipoise.vi._bounds.elbo import elbo
from equipoise.vi._bounds.elbo_terms import ElboTerms, cyclical_weight, elbo_terms, free_bits
from equipoise.vi._bounds.estimate import Estimate
from equipoise.vi._bounds.gradient_variance import GradientVariance, gradient_variance
from equipoise.vi._bounds.importance import importance_weighted_bound, renyi_bound
from equipoise.vi._bounds.kl import kl_divergence
from equipoise.vi._elsewhere.from_numpyro import from_numpyro
from equipoise.vi._elsewhere.to_arviz import to_arviz
from equipoise.vi._families.block_diagonal import block_diagonal
from equipoise.vi._families.categorical import categorical
from equipoise.vi._families.family import Family
from equipoise.vi._families.flow import flow
from equipoise.vi._families.full_rank import full_rank
from equipoise.vi._families.low_rank import low_rank
from equipoise.vi._families.mean_field import mean_field
from equipoise.vi._families.mixture import mixture
from equipoise.vi._fit.fit import fit
from equipoise.vi._fit.result import Fit, Source, posterior_draws
from equipoise.vi._report.calibrate import Calibration, calibrate
from equipoise.vi._report.summary import Summary, summary
from equipoise.vi._supports.bijectors import interval, ordered, positive, real, simplex
from equipoise.vi._supports.cholesky import cholesky_correlation
from equipoise.vi._supports.support import Support
from equipoise.vi._weights.diagnose import Diagnostics, diagnose
from equipoise.vi._weights.verdict import Verdict

# In teaching order.
__all__ = [  # noqa: RUF022
    "fit",
    "Fit",
    "posterior_draws",
    "summary",
    "Summary",
    "calibrate",
    "Calibration",
    "diagnose",
    "Diagnostics",
    "Verdict",
    "Source",
    "Family",
    "mean_field",
    "full_rank",
    "low_rank",
    "block_diagonal",
    "flow",
    "mixture",
    "categorical",
    "Support",
    "real",
    "positive",
    "interval",
    "simplex",
    "ordered",
    "cholesky_correlation",
    "elbo",
    "Estimate",
    "elbo_terms",
    "ElboTerms",
    "free_bits",
    "cyclical_weight",
    "kl_divergence",
    "importance_weighted_bound",
    "renyi_bound",
    "annealed_bound",
    "gradient_variance",
    "GradientVariance",
    "from_numpyro",
    "to_arviz",
]

_legible(globals())
