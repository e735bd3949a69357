"""GPM and FOT: the bases of hand-made inputs, what a projected change does not notice, what equals what."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small import Linear, Net, images, lesson, opened, syllabus, teach, weights
from torch import nn

from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.models import ViT
from clbench.modules import tensors
from clbench.strategies.baselines import Naive
from clbench.strategies.consolidation import EWC
from clbench.strategies.paths import SI
from clbench.strategies.plasticity import L2Init
from clbench.strategies.subspace import FOT, GPM
from clbench.strategies.unlearning import L2
from clbench.streams.incremental import Permuted
from clbench.subspace import SubspaceProjector, directions, inputs, projectable
from clbench.testing import check_resume

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]
FEW = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
"""six different images"""


@dataclass
class Plain:
    """Two hidden layers, no biases."""

    def build(self, shape, classes):
        body = OrderedDict(
            flatten=nn.Flatten(), fc1=nn.Linear(16, 12, bias=False), relu=nn.ReLU(), fc2=nn.Linear(12, 8, bias=False)
        )
        return nn.Sequential(OrderedDict(body=nn.Sequential(body), head=nn.Linear(8, classes, bias=False)))


@dataclass
class Normed:
    """A convolution, batch normalisation and biases."""

    def build(self, shape, classes):
        body = OrderedDict(
            conv1=nn.Conv2d(1, 4, 3), bn1=nn.BatchNorm2d(4), relu=nn.ReLU(), flatten=nn.Flatten(), fc1=nn.Linear(16, 8)
        )
        return nn.Sequential(OrderedDict(body=nn.Sequential(body), head=nn.Linear(8, classes)))


def of(kinds, labels, index):
    """A lesson of 24 samples that are copies of some of the six images."""
    x = torch.from_numpy(FEW[np.resize(kinds, 24)])
    return lesson(Data(Source(x, torch.from_numpy(np.resize(labels, 24))), torch.arange(24)), index)


FIRST, SECOND = of([0, 1, 2], [0, 1, 0], 0), of([3, 4, 5], [2, 3, 3], 1)
"""inputs of three dimensions each"""
ALMOST = 1 - 1e-9


def answers(learner, experience):
    with torch.no_grad():
        return learner(learner.encode(learner.gather(experience.train, torch.arange(24))[0]))


def turned(size):
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size, generator=torch.manual_seed(0), dtype=torch.float64))[0]


def summary(u, singular):
    """R R^T for R with these leading left singular vectors and singular values."""
    s = torch.tensor(singular, dtype=torch.float64)
    return u[:, : len(s)] * s.square() @ u[:, : len(s)].T


# Bases.


@pytest.mark.parametrize(
    ("threshold", "rank"), [(0.0, 0), (0.6, 1), (0.64, 1), (0.65, 2), (0.9, 2), (0.97, 3), (1.0, 3)]
)
def test_a_first_basis_is_the_leading_singular_vectors(threshold, rank):
    """Squared singular values 64, 32, 4 of 100."""
    u = turned(6)
    found = directions(summary(u, [8.0, 32**0.5, 2.0]), None, threshold)
    assert found.shape == (6, rank)
    torch.testing.assert_close(found @ found.T, u[:, :rank] @ u[:, :rank].T)


@pytest.mark.parametrize(("threshold", "rank"), [(0.5, 0), (0.63, 0), (0.65, 1), (0.95, 1), (0.97, 2), (1.0, 2)])
def test_a_basis_that_grows_starts_from_what_it_explains(threshold, rank):
    """It holds the direction with 64 % of the energy; another has 32, the last 4."""
    u = turned(6)
    basis = u[:, [0, 5]].float()
    found = directions(summary(u, [8.0, 32**0.5, 2.0]), basis, threshold)
    torch.testing.assert_close(found @ found.T, u[:, 1 : 1 + rank] @ u[:, 1 : 1 + rank].T, atol=1e-6, rtol=0)


def test_a_sketch_finds_the_space_of_all_inputs():
    u, rng = turned(6), torch.manual_seed(1)
    inputs_ = u[:, :3] @ torch.randn(3, 50, generator=rng, dtype=torch.float64)
    sketch = inputs_ @ torch.randn(50, 5, generator=rng, dtype=torch.float64)
    found = directions(sketch, None, 1.0, sketched=True)
    torch.testing.assert_close(found @ found.T, u[:, :3] @ u[:, :3].T)
    more = directions(sketch, u[:, :2].float(), 1.0, sketched=True)
    torch.testing.assert_close(more @ more.T, u[:, 2:3] @ u[:, 2:3].T, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(2, 4, 3, bias=False),
        nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0), bias=False),
        nn.Conv2d(2, 4, 3, padding="same", dilation=2, bias=False),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
    ],
    ids=["plain", "strided", "dilated", "reflected", "grouped"],
)
def test_patches_times_the_weight_are_the_convolution(convolution):
    x = torch.randn(3, convolution.in_channels, 7, 6)
    out = convolution(x).detach()
    rows = inputs(convolution, x).unflatten(0, (3, convolution.groups, -1))
    weight = convolution.weight.detach().flatten(1).unflatten(0, (convolution.groups, -1))
    torch.testing.assert_close(torch.einsum("bgld,god->bgol", rows, weight).flatten(1, 2), out.flatten(2))


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 7)])
def test_inputs_of_a_linear_layer_are_its_features(shape):
    x = torch.randn(shape)
    assert torch.equal(inputs(nn.Linear(7, 2), x), x.reshape(-1, 7))


def test_bases_are_those_of_the_inputs_of_each_layer():
    learner = opened(model=Plain(), eval_batch=10)
    strategy = teach(learner, GPM(threshold=ALMOST, project_head=True), [FIRST])
    x = learner.encode(learner.gather(FIRST.train, torch.arange(3))[0])
    expected = {}
    for path, given in {
        "body.fc1": x.flatten(1),
        "body.fc2": learner.model.body[:3](x),
        "head": learner.model.body(x),
    }.items():
        u = torch.linalg.svd(given.detach().T, full_matrices=False)[0]
        expected[path] = u @ u.T
    assert list(strategy.projector.bases) == list(expected)
    for path, basis in strategy.projector.bases.items():
        torch.testing.assert_close(basis @ basis.T, expected[path], atol=1e-4, rtol=0)


def test_bases_stay_orthonormal_as_they_grow():
    learner = opened(model=Plain())
    strategy = teach(learner, GPM(threshold=ALMOST, project_head=True), [FIRST, SECOND])
    assert strategy.projector.bases["body.fc1"].shape == (16, 6)
    for basis in strategy.projector.bases.values():
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)


def test_a_layer_without_inputs_has_no_direction():
    learner = opened(model=Plain())
    black = Data(Source(torch.zeros(8, 4, 4, 1, dtype=torch.uint8), torch.zeros(8).long()), torch.arange(8))
    projector = SubspaceProjector(projectable(learner.model))
    projector.extend(learner, black, [0.99] * 3)
    assert projector.bases == {}


# What a change does not notice.


def test_a_projected_change_does_not_act_on_the_subspace():
    learner = opened(model=Normed())
    projector = SubspaceProjector(projectable(learner.model))
    projector.extend(learner, FIRST.train, [0.9, 0.9, 0.9])
    for layer, basis in projector.bases.items():
        weight = learner.model.get_parameter(f"{layer}.weight")
        change = torch.randn_like(weight)
        before = change.clone()
        projector.project(learner, {layer: change})
        assert 0 < basis.shape[1] < basis.shape[0]
        torch.testing.assert_close(
            change.flatten(1) @ basis, torch.zeros(len(change), basis.shape[1]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(before - change, (before.flatten(1) @ basis @ basis.T).view_as(change))


@pytest.mark.parametrize("strategy", [GPM, FOT, lambda **o: FOT(basis="sketch", round=None, **o)])
def test_a_linear_layer_answers_to_the_first_lesson_as_before(strategy):
    made = strategy(threshold=ALMOST, project_head=True)
    learner = opened(model=Linear(torch.randn(4, 16, generator=torch.manual_seed(0))), epochs=3, batch=8)
    teach(learner, made, [FIRST])
    before, at = answers(learner, FIRST), weights(learner)
    learner.begin(SECOND)
    made.learn(learner, SECOND)
    torch.testing.assert_close(answers(learner, FIRST), before, atol=1e-4, rtol=0)
    assert (weights(learner) - at).norm() > 0.1


def test_a_network_answers_to_the_first_lesson_as_before():
    """All layers together, with biases and batch normalisation, which stand still."""
    learner, strategy = opened(model=Normed(), epochs=3, batch=8), GPM(threshold=ALMOST, project_head=True)
    teach(learner, strategy, [FIRST])
    before, at = answers(learner, FIRST), {name: t.clone() for name, t in tensors(learner.model).items()}
    learner.begin(SECOND)
    strategy.learn(learner, SECOND)
    torch.testing.assert_close(answers(learner, FIRST), before, atol=1e-3, rtol=0)
    moved = {name for name, t in tensors(learner.model).items() if not torch.equal(t, at[name])}
    assert moved == {"body.conv1.weight", "body.fc1.weight", "head.weight"}


@pytest.mark.parametrize("shared", [False, True])
def test_the_head_is_free_unless_experiences_share_classes(shared):
    lessons = [FIRST, of([3, 4, 5], [0, 1, 0], 1) if shared else SECOND]
    learner = opened(model=Normed(), batch=8)
    strategy = teach(learner, GPM(), lessons)
    assert strategy.projector.layers == ["body.conv1", "body.fc1", *["head"] * shared]
    assert ("head.bias" in strategy.moving) != shared


# What equals what.


def ends(strategy, model=None, lessons=None, **options):
    learner = opened(model=model or Plain(), **{"epochs": 2, "batch": 8, **options})
    teach(learner, strategy, lessons or LESSONS)
    return weights(learner)


def test_threshold_0_is_naive():
    assert torch.equal(ends(GPM(threshold=0, threshold_step=0)), ends(Naive()))
    assert torch.equal(ends(GPM(threshold=0, threshold_step=0, freeze_rest=False), Normed()), ends(Naive(), Normed()))
    assert torch.equal(ends(FOT(threshold=0, threshold_step=0)), ends(Naive()))
    assert not torch.equal(ends(GPM(threshold=0.9)), ends(Naive()))


def test_the_first_lesson_is_naive():
    assert torch.equal(ends(GPM(), Normed(), LESSONS[:1]), ends(Naive(), Normed(), LESSONS[:1]))


def test_rounds_of_one_step_of_plain_sgd_are_gpm():
    gpm = ends(GPM(threshold=0.9))
    torch.testing.assert_close(ends(FOT(threshold=0.9, round=1)), gpm, atol=1e-5, rtol=0)
    assert (ends(FOT(threshold=0.9, round=3)) - gpm).abs().max() > 1e-4


def test_rounds_are_projected_as_a_whole(monkeypatch):
    """8 steps of the second lesson: after steps 3 and 6, and at the end."""
    learner, strategy, seen = opened(model=Plain(), epochs=2, batch=8), FOT(round=3), []
    project = FOT.project
    monkeypatch.setattr(FOT, "project", lambda self, given: (seen.append(self.steps), project(self, given)))
    teach(learner, strategy, LESSONS)
    assert seen == [3, 6, 8, 3, 6, 8]


def test_fot_keeps_adam_out_of_the_subspace():
    learner = opened(model=Plain(), epochs=2, batch=8, optimizer="adam", lr=0.01, weight_decay=0.1)
    strategy = teach(learner, FOT(threshold=0.9, project_head=True), LESSONS[:1])
    bases = dict(strategy.projector.bases)
    before = {layer: learner.model.get_parameter(f"{layer}.weight").detach().clone() for layer in bases}
    learner.begin(LESSONS[1])
    strategy.learn(learner, LESSONS[1])
    for layer, basis in bases.items():
        moved = learner.model.get_parameter(f"{layer}.weight").detach() - before[layer]
        assert moved.norm() > 0.01
        torch.testing.assert_close(moved @ basis, torch.zeros(len(moved), basis.shape[1]), atol=1e-5, rtol=0)


def test_momentum_of_one_experience_stays_outside_the_subspace():
    learner = opened(model=Plain(), epochs=2, batch=8, momentum=0.9, lr=0.01)
    strategy = teach(learner, GPM(threshold=0.9), LESSONS[:1])
    basis, weight = strategy.projector.bases["body.fc1"], learner.model.body.fc1.weight
    before = weight.detach().clone()
    learner.begin(LESSONS[1])
    strategy.learn(learner, LESSONS[1])
    assert (weight.detach() - before).norm() > 0.01
    torch.testing.assert_close((weight.detach() - before) @ basis, torch.zeros(12, basis.shape[1]), atol=1e-5, rtol=0)


# Thresholds and mistakes.


def test_thresholds_rise_by_a_step_an_experience_up_to_1(monkeypatch):
    seen = []
    monkeypatch.setattr(SubspaceProjector, "extend", lambda self, learner, data, t: seen.append((len(data), t)))
    teach(opened(model=Plain()), GPM(threshold=[0.9, 0.95], threshold_step=0.07, samples=20), LESSONS)
    assert seen == [(20, [0.9, 0.95]), (20, [pytest.approx(0.97), 1.0])]


def test_a_threshold_for_each_layer():
    line = (
        r"^strategy\.threshold=\[0\.9, 0\.9\]: 2 values for 3 layers .*: body\.fc1, body\.fc2, head\. Give one for each"
    )
    with pytest.raises(Mistake, match=line):
        GPM(threshold=[0.9, 0.9], project_head=True).start(opened(model=Plain()), syllabus())


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"optimizer": "adam"}, "learner.optimizer=adam"),
        ({"weight_decay": 0.01}, "learner.weight_decay=0.01"),
        ({"momentum": 0.9, "keep_optimizer": True}, "learner.momentum=0.9 with learner.keep_optimizer=true"),
    ],
)
def test_gpm_refuses_what_moves_weights_within_the_subspaces(options, setting):
    with pytest.raises(Mistake) as error:
        GPM().start(opened(**options), syllabus())
    assert str(error.value).startswith(f"{setting}: it moves weights within")
    FOT().start(opened(**options), syllabus())


# What it costs, and that it helps.


def test_operations_are_counted():
    """Plain on 32 samples of each lesson, in one batch of 32; in the second experience with bases of 3 x 3 inputs."""
    plain, learner = opened(model=Plain(), batch=24), opened(model=Plain(), batch=24)
    teach(plain, Naive(), [FIRST, SECOND])
    strategy = teach(learner, GPM(threshold=ALMOST, project_head=False), [FIRST])
    ranks = [basis.shape[1] for basis in strategy.projector.bases.values()]
    learner.begin(SECOND)
    strategy.learn(learner, SECOND)
    shapes = [(12, 16), (8, 12)]
    projection = sum(4 * out * into * rank for (out, into), rank in zip(shapes, ranks, strict=True))
    forward = 2 * 24 * (16 * 12 + 12 * 8 + 8 * 4)
    products = 2 * 24 * (16**2 + 12**2)
    bases = sum(2 * 4 * into * into * rank for (_, into), rank in zip(shapes, ranks, strict=True))
    assert learner.flops.total == plain.flops.total + projection + 2 * (forward + products) + bases


def accuracy(strategy):
    """The mean over three orders of the pixels of digits, after the last."""
    stream = Permuted(data="digits", tasks=3)
    stream.open(0)
    learner = opened(10, 8, model=Net(50), transform=stream.transform(), epochs=3, batch=16)
    teach(learner, strategy, stream, classes=10)
    right = []
    for exam in stream.exams():
        x, y = exam.data.gather(torch.arange(len(exam.data)))
        with torch.no_grad():
            right.append((learner(learner.encode(x)).argmax(1) == y).float().mean().item())
    return sum(right) / len(right)


def test_they_forget_less_than_fine_tuning():
    naive = accuracy(Naive())
    assert accuracy(GPM(threshold=0.9)) > naive + 0.05
    assert accuracy(FOT(threshold=0.9)) > naive + 0.05


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (lambda: FOT(basis="sketch", columns=8, round=7), None),
        (lambda: FOT(round=None), None),
        (lambda: GPM(threshold=0.9, project_head=True, freeze_rest=False), None),
        (GPM, ViT(patch=3, width=12, depth=1, heads=2)),
    ],
    ids=["sketch", "one round", "head", "vit"],
)
def test_it_goes_on(make, model):
    check_resume(make, model=model)


@pytest.mark.parametrize("around", [EWC, SI, L2Init, L2], ids=lambda kind: kind.__name__)
def test_a_penalty_around_gpm_moves_nothing_within_the_subspace(around):
    learner, strategy = opened(model=Plain(), batch=8, lr=0.1), around(base=GPM(samples=32, threshold=0.9))
    teach(learner, strategy, LESSONS[:1])
    basis, before = strategy.base.projector.bases["body.fc1"], learner.model.body.fc1.weight.detach().clone()
    learner.begin(LESSONS[1])
    strategy.learn(learner, LESSONS[1])
    moved = learner.model.body.fc1.weight.detach() - before
    assert moved.norm() > 1e-3
    assert (moved @ basis).norm() < 1e-5 * moved.norm()
