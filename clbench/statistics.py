"""What a few seeds, and a few streams, allow one to say: means with intervals, paired differences, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

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


def mean_text(values: Sequence[float | None], spec: str = ".1f") -> str:
    """The mean and half its 95 % interval, each by a format; where a value is missing, how many there are."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return f"– ({len(there)} of {len(values)})" if values else "–"
    mean, half = mean_interval(there)
    return f"{mean:{spec}}" if half is None else f"{mean:{spec}} ± {half:{spec.removeprefix('+')}}"


def minus(a: float | None, b: float | None) -> float | None:
    """The difference of two numbers; None where one is missing."""
    return None if a is None or b is None else a - b


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


def detectable(differences: Sequence[float], power: float = 0.8) -> float | None:
    """The smallest mean difference that as many seeds with this spread would show at p <= .05 with this probability.

    Differences are taken as normal. None where no claim is possible: with fewer seeds than `ENOUGH`, and where the
    differences do not vary.

    Raises:
        ValueError: there is no difference, or one is not finite.
    """
    n, effect = len(differences), effect_size(differences)
    return None if n < ENOUGH or effect is None else _shift(n, power) * float(np.std(differences, ddof=1))


@cache
def _shift(n: int, power: float) -> float:
    """`detectable` in standard deviations: of `sign_flip`, simulated from a fixed seed, up to n = 10; above, where it
    has the same power to within a percent, of the paired t-test.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtrit
    from scipy.stats import nct

    draws = np.random.default_rng(0).normal(size=(4000, n))
    signs = 1 - 2 * (np.arange(2 ** min(n - 1, 9))[:, None] >> np.arange(n) & 1)

    def reached(shift: float) -> float:
        if n > 10:
            return float(nct.sf(stdtrit(n - 1, 0.975), n - 1, shift * np.sqrt(n)))
        sums = np.abs((draws + shift) @ signs.T)
        return float(((sums >= sums[:, :1]).mean(1) <= 0.05).mean())

    return float(brentq(lambda shift: reached(shift) - power, 0.0, 3.0, xtol=1e-3))


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for there being so many of them (Holm, A Simple Sequentially Rejective Multiple Test Procedure,
    1979): the chance that any claim at p <= .05 is wrong stays below 5 %, whatever goes with what.
    """
    order = np.argsort(ps, kind="stable")
    found, least = [0.0] * len(ps), 0.0
    for place, index in enumerate(order):
        least = found[index] = max(least, min(1.0, (len(ps) - place) * ps[index]))
    return found


def friedman(ranks: np.ndarray) -> float:
    """p of the hypothesis that on each stream every order of the strategies is as likely (Friedman 1937), by 100,000
    random orders from a fixed seed, and the observed one: exact enough for few streams, as the chi-squared form is not.

    Args:
        ranks: streams x strategies.
    """
    spread = lambda r: ((r.sum(-2) - r.sum(-2).mean(-1, keepdims=True)) ** 2).sum(-1)  # noqa: E731
    rng, rounds, size, extreme = np.random.default_rng(0), 100, 1000, 1
    least = spread(ranks) * (1 - 1e-9)
    for _ in range(rounds):
        extreme += int((spread(rng.permuted(np.broadcast_to(ranks, (size, *ranks.shape)), axis=-1)) >= least).sum())
    return extreme / (1 + rounds * size)


def nemenyi(strategies: int, streams: int) -> float:
    """How far two mean ranks must lie apart to differ at .05, over all pairs (Demšar, Statistical Comparisons of
    Classifiers over Multiple Data Sets, 2006).
    """
    from scipy.stats import studentized_range

    q = studentized_range.ppf(0.95, strategies, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(strategies * (strategies + 1) / (6 * streams)))


def _finite(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if not x.size or not np.isfinite(x).all():
        raise ValueError(f"One finite number or more is needed, got {list(values)}.")
    return x
