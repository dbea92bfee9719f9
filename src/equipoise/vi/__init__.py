"""Variational inference that measures itself."""

from equipoise.vi._block_diagonal import block_diagonal
from equipoise.vi._categorical import categorical
from equipoise.vi._cholesky import cholesky_correlation
from equipoise.vi._diagnose import diagnose
from equipoise.vi._elbo import elbo
from equipoise.vi._elbo_terms import ElboTerms, cyclical_weight, elbo_terms, free_bits
from equipoise.vi._estimate import Estimate
from equipoise.vi._family import Family
from equipoise.vi._fit import fit
from equipoise.vi._fit_result import Diagnostics, Fit, posterior_draws
from equipoise.vi._flow import flow
from equipoise.vi._full_rank import full_rank
from equipoise.vi._gradient_variance import GradientVariance, gradient_variance
from equipoise.vi._importance import importance_weighted_bound, renyi_bound
from equipoise.vi._kl import kl_divergence
from equipoise.vi._low_rank import low_rank
from equipoise.vi._mean_field import mean_field
from equipoise.vi._mixture import mixture
from equipoise.vi._support import Support
from equipoise.vi._supports import interval, ordered, positive, real, simplex

__all__ = [
    "Diagnostics",
    "ElboTerms",
    "Estimate",
    "Family",
    "Fit",
    "GradientVariance",
    "Support",
    "block_diagonal",
    "categorical",
    "cholesky_correlation",
    "cyclical_weight",
    "diagnose",
    "elbo",
    "elbo_terms",
    "fit",
    "flow",
    "free_bits",
    "full_rank",
    "gradient_variance",
    "importance_weighted_bound",
    "interval",
    "kl_divergence",
    "low_rank",
    "mean_field",
    "mixture",
    "ordered",
    "positive",
    "posterior_draws",
    "real",
    "renyi_bound",
    "simplex",
]
