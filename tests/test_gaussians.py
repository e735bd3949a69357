import numpy as np
import pytest
import torch

from clbench.gaussians import Component, Gaussians
from clbench.state import kept_bytes, pack_value, unpack_value


def rng():
    return np.random.default_rng(0)


def skewed(count=400, seed=0):
    """Samples of a covariance that is far from diagonal, and labels 3 and 1, in turns; those of 1 are moved."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3))).float()
    mixed = x @ torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 0.1]])
    labels = torch.tensor([3, 1]).repeat(count // 2)
    return mixed + 5 * (labels == 1)[:, None], labels


def test_a_gaussian_by_hand():
    held = Gaussians(floor=0.5)
    held.add(torch.tensor([[0.0, 0], [2, 4], [7, 7]]), torch.tensor([4, 4, 2]))
    both, alone = held.parts[4][0], held.parts[2][0]
    assert (both.samples, both.mean.tolist(), alone.samples, alone.mean.tolist()) == (2, [1, 2], 1, [7, 7])
    assert torch.allclose(both.spread @ both.spread.T, torch.tensor([[2.5, 4], [4, 8.5]]))
    assert torch.allclose(alone.spread @ alone.spread.T, 0.5 * torch.eye(2))
    held = Gaussians("variance", floor=0.5)
    held.add(torch.tensor([[0.0, 0], [2, 4]]), torch.tensor([4, 4]))
    assert held.parts[4][0].spread.square().tolist() == pytest.approx([2.5, 8.5])


def test_covariances_are_those_of_numpy():
    x, y = skewed()
    held = Gaussians()
    held.add(x, y)
    for label in (1, 3):
        spread = held.parts[label][0].spread
        expected = np.cov(x[y == label].numpy(), rowvar=False) + 1e-4 * np.eye(3)
        assert (spread @ spread.T).numpy() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("storage", ["covariance", "variance", "centroids"])
def test_what_is_drawn_has_the_moments_of_the_samples(storage):
    x, y = skewed()
    held = Gaussians(storage)
    held.add(x, y)
    drawn, labels = held.draw(20_000, [3, 1], rng())
    assert labels.tolist() == [3] * 20_000 + [1] * 20_000
    for label in (1, 3):
        own, found = x[y == label], drawn[labels == label]
        assert torch.allclose(found.mean(0), own.mean(0), atol=0.06)
        expected, given = own.T.cov(), found.T.cov()
        same = given if storage != "variance" else given.diag().diag()
        assert torch.allclose(same, expected if storage != "variance" else expected.diag().diag(), atol=0.12)
    if storage == "variance":
        assert abs(float(drawn[labels == 1].T.corrcoef()[0, 1])) < 0.03


def test_each_centre_draws_by_its_share_of_the_samples():
    x = torch.tensor([[0.0, 0]] * 30 + [[9.0, 9]] * 10)
    held = Gaussians("centroids")
    held.add(x, torch.zeros(40, dtype=torch.int64))
    assert sorted((p.samples, p.mean.tolist()) for p in held.parts[0]) == [(10, [9, 9]), (30, [0, 0])]
    drawn, _ = held.draw(4000, [0], rng())
    assert float((drawn[:, 0] > 4).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((drawn - drawn.round()).abs().max()) < 0.06


def test_the_scale_moves_means_alone():
    held = Gaussians()
    held.add(*skewed())
    plain, _ = held.draw(50, [1, 3], rng())
    scaled, _ = held.draw(50, [1, 3], rng(), {1: 0.9, 3: 1.0})
    assert torch.allclose(plain[:50] - scaled[:50], 0.1 * held.parts[1][0].mean.expand(50, -1), atol=1e-5)
    assert torch.equal(plain[50:], scaled[50:])


def test_a_class_that_comes_again_keeps_what_it_was():
    held = Gaussians()
    held.add(torch.zeros(30, 2), torch.ones(30, dtype=torch.int64))
    held.add(torch.full((10, 2), 8.0), torch.ones(10, dtype=torch.int64))
    assert [part.samples for part in held.parts[1]] == [30, 10]
    means, classes = held.means()
    assert (means.tolist(), classes) == ([[2, 2]], [1])
    assert float((held.draw(4000, [1], rng())[0][:, 0] > 4).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_means_by_class_in_order():
    held = Gaussians()
    x, y = skewed()
    held.add(x, y)
    means, classes = held.means()
    assert classes == [1, 3]
    assert torch.allclose(means, torch.stack([x[y == 1].mean(0), x[y == 3].mean(0)]), atol=1e-5)


def test_a_class_that_is_not_known_can_not_be_drawn():
    with pytest.raises(KeyError):
        Gaussians().draw(3, [0], rng())


def test_it_can_be_saved_and_goes_on_to_the_same_bits():
    held = Gaussians()
    held.add(*skewed())
    tree, tensors = pack_value(held, "held")
    again = unpack_value(tree, tensors, Gaussians(), lambda index: None, torch.device("cpu"))
    assert again.parts.keys() == {1, 3}
    assert isinstance(again.parts[1][0], Component)
    assert torch.equal(again.draw(9, [3, 1], rng())[0], held.draw(9, [3, 1], rng())[0])
    assert kept_bytes(held) == 2 * (3 + 9) * 4
