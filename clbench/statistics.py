"""What a few seeds allow one to say: means with intervals, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ENOUGH = 6
"""the fewest seeds with which a sign-flip test can reach p <= .05"""


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half the width of its 95 % interval by Student's t; one value alone has no interval.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    from scipy.special import stdtrit

    x = _finite(values)
    if len(x) == 1:
        return float(x[0]), None
    return float(x.mean()), float(stdtrit(len(x) - 1, 0.975) * x.std(ddof=1) / np.sqrt(len(x)))


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the hypothesis that each difference is as likely as its negative, tested on the mean.

    Exact over all 2**n signs up to n = 20; above that one million random ones from a fixed seed, and the observed one
    (Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010).

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    d = _finite(differences)
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()
    if len(d) <= 20:
        sums = np.zeros(1)
        for x in d:
            sums = np.concatenate([sums - x, sums + x])
        return float((np.abs(sums) >= least).mean())
    rng, rounds, size, extreme = np.random.default_rng(0), 100, 10_000, 1
    for _ in range(rounds):
        signs = 2 * rng.integers(0, 2, (size, len(d))) - 1
        extreme += int((np.abs(signs @ d) >= least).sum())
    return extreme / (1 + rounds * size)


def smallest_p(n: int) -> float:
    """The smallest p that `sign_flip` can give for n differences: all have one sign."""
    return min(1.0, 2 / 2**n)


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z, the mean of paired differences over their standard deviation; None where they do not vary.

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    d = _finite(differences)
    if len(d) == 1 or np.ptp(d) <= 1e-9 * np.abs(d).max():
        return None
    return float(d.mean() / d.std(ddof=1))


def _finite(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"One finite number or more is needed, got {list(values)}.")
    return x
