"""Variational inference that measures itself."""

from equipoise.vi._elbo import elbo
from equipoise.vi._estimate import Estimate
from equipoise.vi._family import Family
from equipoise.vi._full_rank import full_rank
from equipoise.vi._mean_field import mean_field

__all__ = ["Estimate", "Family", "elbo", "full_rank", "mean_field"]
