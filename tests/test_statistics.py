from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.statistics import (
    ENOUGH,
    detectable,
    effect_size,
    friedman,
    holm,
    mean_interval,
    mean_text,
    minus,
    nemenyi,
    sign_flip,
    smallest_p,
)

differences = st.lists(st.integers(-1000, 1000).map(lambda i: i / 100), min_size=1, max_size=10)


def test_interval_is_students():
    mean, half = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert half == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-6)
    assert mean_interval([0.0, 2.0])[1] == pytest.approx(12.706205, rel=1e-6)


def test_one_value_has_no_interval():
    assert mean_interval([0.7]) == (0.7, None)


@pytest.mark.parametrize(
    ("values", "spec", "text"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], ".1f", "3.0 ± 2.0"),
        ([-1.0, 2.0], "+.2f", "+0.50 ± 19.06"),
        ([0.25], "+.1f", "+0.2"),
        ([0.25, None], ".1f", "– (1 of 2)"),
        ([None], ".1f", "– (0 of 1)"),
        ([], ".1f", "–"),
    ],
)
def test_a_mean_in_words(values, spec, text):
    assert mean_text(values, spec) == text


def test_a_difference_needs_both():
    assert minus(3.0, 1.0) == 2.0
    assert minus(None, 1.0) is None
    assert minus(1.0, None) is None


def test_interval_agrees_with_scipy():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values.tolist()) == pytest.approx(((low + high) / 2, (high - low) / 2))


@pytest.mark.parametrize("values", [[], [float("nan"), 1.0], [1.0, float("inf")]])
@pytest.mark.parametrize("function", [mean_interval, sign_flip, effect_size, detectable])
def test_what_is_no_number_is_refused(function, values):
    with pytest.raises(ValueError, match="finite"):
        function(values)


def test_sign_flip_known_answers():
    assert sign_flip([1, 2, 3]) == 2 / 8
    assert sign_flip([0.3] * 6) == 2 / 64
    assert sign_flip([1, -1]) == 1
    assert sign_flip([0, 0, 0]) == 1
    assert sign_flip([3, -1, 2]) == 4 / 8
    assert sign_flip([5.0]) == 1


def test_sign_flip_counts_ties_despite_rounding():
    assert sign_flip([0.1, 0.2, 0.3, 0.6]) == 2 / 16
    assert sign_flip([0.1 + 0.2, -0.3]) == 1


@given(differences)
def test_sign_flip_is_the_share_of_signs(d):
    scaled = [round(100 * x) for x in d]
    flips = [abs(sum(s * x for s, x in zip(signs, scaled, strict=True))) for signs in product((-1, 1), repeat=len(d))]
    assert sign_flip(d) == sum(flip >= abs(sum(scaled)) for flip in flips) / len(flips)


@given(differences)
def test_sign_flip_is_two_sided_and_bounded(d):
    p = sign_flip(d)
    assert p == sign_flip([-x for x in d])
    assert smallest_p(len(d)) <= p <= 1


def test_sign_flip_of_many_agrees_with_the_exact_one():
    d = np.random.default_rng(1).normal(0.4, 1, size=20)
    exact, sampled = sign_flip(d.tolist()), sign_flip([*d, 0.0])
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact / 1e6))
    assert sampled == sign_flip([*d, 0.0])
    assert sign_flip([1.0] * 40) == pytest.approx(1 / 1_000_001)


def test_enough_seeds():
    assert [smallest_p(n) for n in (1, 2, 3)] == [1, 0.5, 0.25]
    assert smallest_p(ENOUGH - 1) > 0.05 >= smallest_p(ENOUGH)


def test_effect_size():
    assert effect_size([1, 2, 3]) == 2
    assert effect_size([-1, 1]) == 0
    assert effect_size([4.0]) is None
    assert effect_size([0.1 + 0.2, 0.3]) is None


def test_detectable_is_what_the_test_detects():
    """With 6 seeds all must have one sign, which six normal differences do with .8 where each does with .8 ** (1/6)."""
    from scipy.stats import norm

    six = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    assert detectable(six) == pytest.approx(norm.ppf(0.8 ** (1 / 6)) * np.std(six, ddof=1), rel=0.02)
    ten = np.random.default_rng(2).normal(size=10)
    shift = detectable(ten.tolist()) / ten.std(ddof=1)
    found = [sign_flip(d) <= 0.05 for d in np.random.default_rng(3).normal(shift, 1, (600, 10))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_detectable_of_many_seeds_is_that_of_the_t_test():
    d = np.random.default_rng(4).normal(size=100)
    assert detectable(d.tolist()) == pytest.approx((1.984 + 0.845) / 10 * d.std(ddof=1), rel=0.01)
    assert detectable(d.tolist(), power=0.95) > detectable(d.tolist())


def test_what_allows_no_claim_detects_nothing():
    assert detectable([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert detectable([0.5] * 8) is None


def test_holm_known_answers():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_friedman_is_the_share_of_orders():
    """Two streams that agree on three strategies: 6 of 36 pairs of orders agree, whatever the order."""
    assert friedman(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1 / 6, abs=0.005)
    assert friedman(np.array([[1.0, 2, 3], [3, 2, 1]])) == 1


def test_friedman_of_many_streams_agrees_with_chi_squared():
    from scipy.stats import friedmanchisquare, rankdata

    ranks = rankdata(np.random.default_rng(5).normal([0, 0.1, 0.2, 0.4], 1, (40, 4)), axis=1)
    assert friedman(ranks) == pytest.approx(friedmanchisquare(*ranks.T).pvalue, abs=0.01)


def test_nemenyi_as_demsar_has_it():
    """Demšar 2006: four classifiers on 14 data sets, q = 2.569."""
    assert nemenyi(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), rel=1e-3)
