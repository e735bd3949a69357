import numpy as np
import pytest
import torch
from small import Net, Transformer, images, lesson, opened, syllabus, teach, weights

from clbench.strategies.prototypes import LOWEST
from clbench.strategies.ranpac import RIDGES, RanPAC, chosen, solved
from clbench.testing import check_resume

PIXELS = Net(hidden=0)
"""features are the pixels, of 0 to 1"""


def two_lessons():
    return [lesson(images([0, 1] * 20)), lesson(images([2, 3] * 20 + [2] * 7), 1)]


def frozen(lessons=two_lessons, model=PIXELS, **options):
    learner = opened(model=model)
    return learner, teach(learner, RanPAC(tune="none", **options), lessons())


def seen(learner, strategy, lessons):
    """h and one-hot labels of all samples, in numpy."""
    h, y = [], []
    for one in lessons:
        x = learner.encode(one.train.gather(torch.arange(len(one.train)))[0])
        h.append(strategy.project(learner.features(x)).numpy())
        y.append(np.eye(4)[one.train.labels.numpy()])
    return np.concatenate(h), np.concatenate(y)


@pytest.mark.parametrize("projection", [0, 60])
def test_what_goes_on_over_the_stream_is_the_joint_ridge_regression(projection):
    learner, strategy = frozen(projection=projection)
    h, y = seen(learner, strategy, two_lessons())
    joint = np.linalg.solve(h.T @ h + strategy.ridge * np.eye(h.shape[1]), h.T @ y)
    assert strategy.weight.numpy() == pytest.approx(joint, rel=1e-6, abs=1e-9)


def test_twenty_features_by_the_closed_form():
    rng = np.random.default_rng(0)
    h, y = rng.standard_normal((50, 20)), np.eye(3)[rng.integers(0, 3, 50)]
    gram, moments = (torch.from_numpy(h.T @ other) for other in (h, y))
    stacked = np.concatenate([h, np.sqrt(0.1) * np.eye(20)]), np.concatenate([y, np.zeros((20, 3))])
    assert solved(gram, moments, 0.1).numpy() == pytest.approx(np.linalg.lstsq(*stacked, rcond=None)[0], rel=1e-9)


def test_a_ridge_too_small_for_the_precision_gives_way_to_the_next():
    gram = torch.full((3, 3), 1e12, dtype=torch.float64)
    moments = torch.ones(3, 2, dtype=torch.float64)
    found = solved(gram, moments, 1e-8)
    assert found.isfinite().all()
    assert torch.allclose(gram @ found, moments, rtol=1e-3)


@pytest.mark.parametrize("samples", [90, 25])
def test_the_ridge_is_that_of_least_error_on_the_last_fifth(samples):
    rng = np.random.default_rng(1)
    h = rng.standard_normal((samples, 30))
    y = np.eye(2)[(h[:, 0] + rng.standard_normal(samples) > 0).astype(int)]
    first = samples * 4 // 5
    errors = []
    for ridge in RIDGES:
        w = np.linalg.solve(h[:first].T @ h[:first] + ridge * np.eye(30), h[:first].T @ y[:first])
        errors.append(np.square(h[first:] @ w - y[first:]).sum())
    assert chosen(torch.from_numpy(h), torch.from_numpy(y)) == RIDGES[int(np.argmin(errors))]
    assert 0 < np.argmin(errors) < len(RIDGES) - 1


def test_random_features_are_rectified_and_the_same_throughout():
    learner, strategy = frozen(projection=60)
    x = torch.rand(5, 1, 4, 4)
    expected = np.maximum(x.flatten(1).double().numpy() @ strategy.random.numpy(), 0)
    assert strategy.project(learner.features(x)).numpy() == pytest.approx(expected)
    again = RanPAC(tune="none", projection=60)
    again.start(opened(model=PIXELS), syllabus())
    assert torch.equal(again.random, strategy.random)
    assert abs(float(strategy.random.std()) - 1) < 0.1


def test_answers_by_hand():
    learner, strategy = frozen(lessons=lambda: two_lessons()[:1], projection=0)
    x = torch.rand(5, 1, 4, 4)
    product = x.flatten(1).double() @ strategy.weight
    found = strategy.predict(learner, x)
    assert torch.allclose(found[:, :2], product[:, :2].float())
    assert found[:, 2:].unique().tolist() == [LOWEST]
    strategy.normalise = True
    lengths = x.flatten(1).norm(dim=1, keepdim=True).double() * strategy.weight[:, :2].norm(dim=0)
    assert torch.allclose(strategy.predict(learner, x)[:, :2], (product[:, :2] / lengths).float())


def test_a_sample_alone_can_be_an_experience():
    learner, strategy = frozen(lessons=lambda: [*two_lessons(), lesson(images([0]), 2)], projection=0)
    assert strategy.predict(learner, torch.rand(2, 1, 4, 4)).isfinite().all()


def test_the_network_moves_in_the_first_experience_only():
    learner = opened(model=Transformer(), lr=0.5)
    strategy, (first, second) = RanPAC(projection=20), two_lessons()
    strategy.start(learner, syllabus(sizes=[40, 47]))
    states = [weights(learner)]
    for one in (first, second):
        learner.begin(one)
        strategy.learn(learner, one)
        learner.end()
        states.append(weights(learner))
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2])


@pytest.mark.parametrize("options", [{"tune": "none"}, {"tune": "ssf"}, {"normalise": True}])
def test_it_goes_on_under_options(options):
    check_resume(RanPAC(projection=30, **options), model=Transformer())
