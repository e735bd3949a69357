"""DFIL, CoReD and SUR-LID: what they keep, what they lose, and how they move, by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import images, lesson, numbers, opened, teach, weights

from clbench.batch import Batch
from clbench.errors import Mistake
from clbench.strategies.baselines import Naive
from clbench.strategies.contrast import supcon
from clbench.strategies.cored import CoReD, means, ranges
from clbench.strategies.dfil import DFIL, hard_and_typical
from clbench.strategies.sur_lid import SURLID, quartered, sparse_uniform
from clbench.stream import Syllabus

LABELS = [0, 1] * 12


def lessons(count=2):
    return [lesson(images(LABELS, lesson=index), index) for index in range(count)]


def test_contrast_by_hand():
    features = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    pair = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0)))
    assert float(supcon(features, torch.tensor([0, 0, 1]), 0.5)) == pytest.approx(pair)
    assert float(supcon(features, torch.tensor([0, 1, 2]), 0.5)) == 0


@pytest.mark.parametrize("quiet", [DFIL(contrast=0.0), CoReD(cutmix=0.0)], ids=["dfil", "cored"])
def test_the_first_lesson_is_fine_tuning(quiet):
    learners = [opened(2, lr=0.1) for _ in range(2)]
    for learner, strategy in zip(learners, (quiet, Naive()), strict=True):
        teach(learner, strategy, lessons(1), 2)
    assert torch.equal(weights(learners[0]), weights(learners[1]))


def test_dfil_keeps_the_hard_and_the_typical():
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0]])  # the mean is 3
    logits = torch.tensor([[0.0, 4.0], [0.0, 0.1], [0.0, 3.0], [0.0, 0.2], [0.0, 5.0]])
    assert hard_and_typical(features, logits, 4).tolist() == [1, 3, 2, 0]
    assert sorted(hard_and_typical(features, logits, 9).tolist()) == [0, 1, 2, 3, 4]
    learner = opened(2, lr=0.1)
    strategy = teach(learner, DFIL(memory_size=9), lessons(), 2)
    assert strategy.memory.data().labels.tolist() == [0, 0, 1, 1] * 2
    many = Syllabus(20, 10, (1, 4, 4), (), shared=True)
    for method in (DFIL(memory_size=100), SURLID(memory_size=100)):
        with pytest.raises(Mistake, match=r"^strategy\.memory_size=100 is less than 10 for each of 20 lessons"):
            method.start(opened(), many)
    with pytest.raises(Mistake, match=r"^strategy\.memory_size=3 is less than 2 for each of 2 lessons"):
        teach(opened(2), DFIL(memory_size=3), lessons(), 2)


def test_dfil_is_held_by_the_old_network():
    learner = opened(2, lr=0.1)
    strategy = teach(learner, DFIL(contrast=0.0, feature=2.0, alpha=0.25, temperature=3.0), lessons(), 2)
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 1, 0])
    old = {"features": torch.rand(4, 8), "logits": torch.rand(4, 2)}
    h = learner.features(x)
    logits = learner.model.head(h)
    p, q = (old["logits"] / 3).softmax(1), (logits / 3).softmax(1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    unit = h / h.norm(dim=1, keepdim=True) - old["features"] / old["features"].norm(dim=1, keepdim=True)
    expected = 1.75 * F.cross_entropy(logits, y) + 2 * 0.25 * 9 * kl + 2 * unit.square().mean()
    assert torch.allclose(strategy.loss(learner, Batch(x, y, x, kept=old)), expected, atol=1e-6)


def test_cored_tells_by_confidence():
    p = torch.tensor([0.55, 0.59, 0.75, 0.99, 0.45, 0.95])
    logits = torch.stack([torch.zeros(6), torch.log(p / (1 - p))], 1)
    y = torch.tensor([1, 1, 1, 1, 1, 0])
    assert ranges(logits.double(), y).tolist()[:5] == [5, 5, 7, 9, -1]
    assert ranges(logits.double(), y)[5] == -1, "sure of it, and wrong"
    found, there = means(torch.tensor([[1.0], [3.0], [5.0], [7.0]]), torch.tensor([2, 2, -1, 0]), 3)
    assert (found[:, 0].tolist(), there.tolist()) == ([7.0, 0.0, 2.0], [1.0, 0.0, 1.0])


def test_cored_mixes_in_another_class():
    learner = opened(2)
    strategy = CoReD()
    y = torch.tensor([0, 0, 0, 1])
    x = y.float().view(4, 1, 1, 1).expand(4, 1, 8, 8).clone()
    mixed = strategy.mixed(Batch(x, y, x), np.random.default_rng(1))
    patch = (mixed != x).flatten(1).sum(1)
    assert patch[0] > 0
    assert (patch == patch[0]).all(), "each has a patch of the other class"
    same = strategy.mixed(Batch(x, torch.zeros(4).long(), x), np.random.default_rng(1))
    assert torch.equal(same, x), "where there is no other class, its own"
    assert learner.model is not None


def test_cored_forgets_no_representation():
    learner = opened(2, lr=0.1)
    strategy = teach(learner, CoReD(), lessons(), 2)
    assert strategy.means is None, "nothing of an experience is kept after it"
    learner.begin(lessons()[1])
    strategy.teacher.load_state_dict(learner.model.state_dict())
    strategy.represented(learner, lessons()[1].train)
    assert strategy.bins.shape == (24,)
    assert strategy.means.shape == (10, 8)
    batch = next(iter(learner.batches(lessons()[1].train, 24)))
    batch.kept = {"logits": learner(batch.x).detach(), "bins": strategy.bins[batch.index]}
    ce = learner.criterion(learner(batch.x), batch.y)
    assert torch.allclose(strategy.loss(learner, batch), 1.5 * ce, atol=1e-5), "the old network itself is not apart"


def test_sparse_uniform_takes_two_of_each_segment():
    # Twelve points on a line, at distances 0 .. 11 of the centre; three segments of four.
    angle = torch.tensor([0, 0.1, 0.2, 1.5, 0, 0.9, 0.1, 0.2, 0.3, 0, 0.1, 1.2])
    features = torch.stack([angle.cos(), angle.sin()], 1)
    order, stability = torch.arange(12.0), torch.zeros(12)
    stability[[1, 4, 9]] = 1.0
    assert sparse_uniform(features, order, stability, 6).tolist() == [1, 3, 4, 5, 9, 11]
    assert sparse_uniform(features, -order, stability, 6).tolist() == [9, 11, 4, 5, 1, 3]
    assert sparse_uniform(features, order, stability, 3).tolist()[:2] == [1, 3], "an odd number: one of the last"
    assert len(sparse_uniform(features, order, stability, 5)) == 5
    few = sparse_uniform(features[:3], order[:3], stability[:3], 8)
    assert sorted(few.tolist()) == [0, 1, 2], "segments of one, and an empty one"


def test_quarters_change_places():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(quartered(x, 0), x)
    orders = {tuple(quartered(x, order)[0, 0, ::2, ::2].flatten().tolist()) for order in range(24)}
    assert len(orders) == 24
    odd = quartered(torch.arange(25.0).view(1, 1, 5, 5), 23)
    assert torch.equal(odd[..., 4, :], torch.arange(20.0, 25.0).view(1, 1, 5)), "the odd row stays"


def sur_lid(**options) -> tuple:
    learner = opened(2, lr=0.1, epochs=2)
    return learner, teach(learner, SURLID(memory_size=16, **options), lessons(), 2)


def test_sur_lid_keeps_islands():
    learner, strategy = sur_lid()
    assert strategy.islands == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert strategy.memory.data().labels.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert strategy.memory.kept["lesson"].tolist() == [0] * 8 + [1] * 8
    assert len(set(numbers(strategy.memory.x[:4]))) == 4, "all different"
    assert strategy.centres.shape == (4, 8)
    past = strategy.recalled(learner, np.random.default_rng(0))
    assert past.y.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3
    assert past.kept["lesson"].tolist() == [0] * 6 + [1] * 6


def test_sur_lid_aligns_heads_and_keeps_their_length():
    learner, strategy = sur_lid(align=0.05)
    heads = learner.model.head.weight.detach().view(2, 2, -1)
    length, cosines = heads.norm(dim=2).clone(), []
    for _ in range(40):
        cosines.append(F.cosine_similarity(heads[1], heads[0], dim=1))
        strategy.aligned(learner)
    assert torch.allclose(heads.norm(dim=2), length, rtol=1e-5)
    assert (torch.stack(cosines).diff(dim=0) > 0).all(), "nearer at each step"
    assert cosines[-1].min() > 0.9


def test_sur_lid_fills_between_and_towards_the_centre():
    _, strategy = sur_lid()
    features, zero = torch.rand(12, 8), torch.zeros(2, 12, 1)
    far = zero + torch.tensor([1.0, 1.0]).view(2, 1, 1)
    assert torch.allclose(strategy.refilled(features, far), features), "a and b are 1: the sample itself"
    towards = strategy.refilled(features, zero)
    others = features.view(4, 3, 8).roll(1, 1).reshape(12, 8)
    assert torch.allclose(towards, (others + strategy.centres.repeat_interleave(3, 0)) / 2)


def test_sur_lid_answers_by_the_mean_of_heads():
    learner, strategy = sur_lid()
    x = torch.rand(3, 1, 4, 4)
    assert torch.allclose(strategy.predict(learner, x), learner(x).view(3, 2, 2).mean(1))
    one, shared = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert strategy.island(one, shared).tolist() == [0, 1, 2, 3]
    assert SURLID(isolate_real=False).isolate_real is False
    strategy.isolate_real = False
    assert strategy.island(one, shared).tolist() == [0, 1, 0, 3], "what is real is one island"


def test_sur_lid_holds_the_old_features():
    learner, strategy = sur_lid(isolate=0.0, keep=2.0, detect=0.5)
    batch = next(iter(learner.batches(lessons()[1].train, 4)))
    past = strategy.recalled(learner, np.random.default_rng(0))
    past.kept["old"] = past.kept["old"] + 1.0
    batch.past = (past,)
    apart = (learner.features(past.x) - past.kept["old"]).square().sum(1).mean()
    apart = apart / past.kept["old"].square().sum(1).mean()
    heads = learner(torch.cat([batch.x, past.x])).view(-1, 2, 2)
    which = torch.cat([torch.ones(4).long(), past.kept["lesson"]])
    ce = F.cross_entropy(heads[torch.arange(len(which)), which], torch.cat([batch.y, past.y]))
    assert torch.allclose(strategy.loss(learner, batch), 0.5 * ce + 2 * apart, atol=1e-6)
