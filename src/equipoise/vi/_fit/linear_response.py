"""Covariances that a mean-field normal lacks, from how its optimum responds to the target."""

import numpy as np

from equipoise.vi._fit.target import Target

_MANY = 1024  # points whose curvatures are held at once


def linear_response(
    target: Target, mean: np.ndarray, scale: np.ndarray, noise: np.ndarray
) -> np.ndarray | None:
    """Cholesky factor of the linear-response covariance; None where the optimum is none.

    Adding t·z to log p moves the optimal mean by Σ t, so Σ is the block of the means in the
    inverse Hessian of the negative ELBO. For a normal target it is exact. The Hessian is that of
    the points z = m + s (x + e^y ε) at x = y = 0.
    """
    n, d = noise.shape
    hessian = np.zeros((2, 2, d, d))
    for at in range(0, n, _MANY):
        eps = noise[at : at + _MANY]
        _, gradients, curvatures = target.curvatures(mean + scale * eps)
        hessian[0, 0] -= np.sum(curvatures, axis=0)
        hessian[0, 1] -= np.einsum("nij,nj->ij", curvatures, eps)
        hessian[1, 1] -= np.einsum("nij,ni,nj->ij", curvatures, eps, eps)
        hessian[1, 1] -= np.diag(np.sum(gradients * eps, axis=0) / scale)
    (of_means, mixed), (_, of_scales) = hessian * (scale[:, None] * scale) / n
    try:
        np.linalg.cholesky(of_scales)
        precision = of_means - mixed @ np.linalg.solve(of_scales, mixed.T)
        root = np.linalg.inv(np.linalg.cholesky(0.5 * (precision + precision.T)))
        return scale[:, None] * np.linalg.cholesky(root.T @ root)
    except np.linalg.LinAlgError:
        return None
