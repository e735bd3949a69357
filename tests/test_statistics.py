from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbench.statistics import ENOUGH, effect_size, mean_interval, sign_flip, smallest_p

differences = st.lists(st.integers(-1000, 1000).map(lambda i: i / 100), min_size=1, max_size=10)


def test_interval_is_students():
    mean, half = mean_interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert half == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-6)
    assert mean_interval([0.0, 2.0])[1] == pytest.approx(12.706205, rel=1e-6)


def test_one_value_has_no_interval():
    assert mean_interval([0.7]) == (0.7, None)


def test_interval_agrees_with_scipy():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values.tolist()) == pytest.approx(((low + high) / 2, (high - low) / 2))


@pytest.mark.parametrize("values", [[], [float("nan"), 1.0], [1.0, float("inf")]])
@pytest.mark.parametrize("function", [mean_interval, sign_flip, effect_size])
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
