"""Variational inference that measures itself."""

from equipoise.vi._cholesky import cholesky_correlation
from equipoise.vi._diagnose import diagnose
from equipoise.vi._elbo import elbo
from equipoise.vi._elbo_terms import ElboTerms, cyclical_weight, elbo_terms, free_bits
from equipoise.vi._estimate import Estimate
from equipoise.vi._family import Family
from equipoise.vi._fit import fit
from equipoise.vi._fit_result import Diagnostics, Fit, posterior_draws
from equipoise.vi._full_rank import full_rank
from equipoise.vi._gradient_variance import GradientVariance, gradient_variance
from equipoise.vi._kl import kl_divergence
from equipoise.vi._mean_field import mean_field
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
    "cholesky_correlation",
    "cyclical_weight",
    "diagnose",
    "elbo",
    "elbo_terms",
    "fit",
    "free_bits",
    "full_rank",
    "gradient_variance",
    "interval",
    "kl_divergence",
    "mean_field",
    "ordered",
    "positive",
    "posterior_draws",
    "real",
    "simplex",
]
