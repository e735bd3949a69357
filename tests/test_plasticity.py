import copy
from collections import OrderedDict

import pytest
import torch
from small import Net, images, lesson, opened, syllabus, teach, weights
from test_strategies import same_run, two_lessons
from torch import nn

from clbench import catalogue
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.looks import Looks
from clbench.strategies.baselines import Naive
from clbench.strategies.distillation import DER
from clbench.strategies.fpf import KFPF
from clbench.strategies.lwf import LwF
from clbench.strategies.plasticity import ContinualBackprop, L2Init, chain, contribution, outgoing
from clbench.strategies.replay import ER
from clbench.testing import check_resume

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20


class Normalised(Net):
    """Convolution, batch normalisation, pooling, then fully connected."""

    def build(self, shape, classes):
        body = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        body += [nn.Linear(16, 6), nn.ReLU()]
        return nn.Sequential(OrderedDict(body=nn.Sequential(*body), head=nn.Linear(6, classes)))


# L2 Init.


@pytest.mark.parametrize("strength", [0.01, 0.5])
def test_l2_init_pulls_to_the_initial_weights(strength):
    """The first step, and the second, by an independent few lines."""
    learner, model = opened(batch=20, lr=0.1), opened(batch=20, lr=0.1).model
    start = copy.deepcopy(model)
    teach(learner, L2Init(l2_lambda=strength), [lesson(images(FIRST))])
    other = opened(batch=20)
    other.begin(lesson(images(FIRST)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for batch in other.batches(images(FIRST)):
        optimizer.zero_grad()
        far = sum(((p - q.detach()) ** 2).sum() for p, q in zip(model.parameters(), start.parameters(), strict=True))
        (nn.functional.cross_entropy(model(batch.x), batch.y) + strength * far).backward()
        optimizer.step()
    assert torch.allclose(weights(learner), torch.cat([p.detach().flatten() for p in model.parameters()]), atol=1e-6)


def test_l2_init_without_its_penalty_is_naive():
    assert same_run(L2Init(l2_lambda=0), Naive())
    assert same_run(L2Init(l2_lambda=0, base=ER(memory_size=20)), ER(memory_size=20))
    assert not same_run(L2Init(l2_lambda=0.01), Naive())


def test_l2_init_stays_closer_to_the_start():
    learners = [opened(batch=8, epochs=5) for _ in range(2)]
    start = weights(learners[0])
    for learner, strategy in zip(learners, (Naive(), L2Init(l2_lambda=0.1)), strict=True):
        teach(learner, strategy, two_lessons())
    free, held = ((weights(learner) - start).norm() for learner in learners)
    assert held < 0.8 * free


# Continual backpropagation.


def test_contributions_by_hand():
    x, weight = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[1.0, -1.0], [2.0, 0.5], [0.0, 1.0]])
    # Mean |activation| is 2 and 1, the outgoing weights sum up to 3 and 2.5.
    assert contribution(x, weight, 2).tolist() == [6.0, 2.5]
    flattened, weight = torch.tensor([[1.0, 2.0, 0.0, 4.0]]), torch.tensor([[1.0, 1.0, 3.0, -1.0]])
    assert contribution(flattened, weight, 2).tolist() == [(1 + 2) / 2, (0 + 4) / 2]
    maps = torch.tensor([[[[1.0, 3.0]], [[-4.0, 0.0]]]])
    weight = torch.ones(5, 2, 3, 3)
    assert contribution(maps, weight, 2).tolist() == [2.0 * 45, 2.0 * 45]
    assert outgoing(torch.tensor([0, 2]), 3, 6).tolist() == [0, 1, 4, 5]
    assert outgoing(torch.tensor([1]), 3, 3).tolist() == [1]


def test_utilities_are_running_means_of_contributions(monkeypatch):
    log: list = []

    class Noted(Naive):
        def loss(self, learner, batch):
            log.append((batch.x, learner.model.body[:3](batch.x).detach()))
            return super().loss(learner, batch)

    learner = opened(batch=8)
    strategy = ContinualBackprop(replacement_rate=1e-9, decay=0.9, base=Noted())
    heads: list = []

    def step(self, learner, links, inputs):
        heads.append(learner.model.head.weight.detach().clone())
        real(self, learner, links, inputs)

    real = ContinualBackprop.step
    monkeypatch.setattr(ContinualBackprop, "step", step)
    teach(learner, strategy, two_lessons())
    expected = torch.zeros(8)
    for (_, hidden), head in zip(log, heads, strict=True):
        expected = 0.9 * expected + 0.1 * hidden.abs().mean(0) * head.abs().sum(0)
    assert len(log) == 10
    assert torch.allclose(strategy.units[0].utility, expected, rtol=1e-4)


def test_units_of_least_utility_are_replaced_when_they_are_mature(monkeypatch):
    """A share of 1/8 of 8 units: one a step, from the first step at which there are mature ones."""
    learner = opened(batch=8, lr=0.05)
    strategy = ContinualBackprop(replacement_rate=0.125, maturity_threshold=3, decay=0.5)
    seen: list = []

    def replace(self, learner, link, units, due, rng):
        before = copy.deepcopy(learner.model), copy.deepcopy(units)
        real(self, learner, link, units, due, rng)
        seen.append((self.steps, due, *before, copy.deepcopy(learner.model), copy.deepcopy(units)))

    real = ContinualBackprop.replace
    monkeypatch.setattr(ContinualBackprop, "replace", replace)
    teach(learner, strategy, two_lessons())
    assert [step for step, *_ in seen[:2]] == [4, 6]  # 8 mature, then 7/8 + 6/8 are owed at the fifth and the sixth
    for step, due, model, units, now, after in seen:
        assert due == 1
        corrected = units.utility / (1 - 0.5 ** (step - units.born))
        ranked = [n for n in corrected.argsort().tolist() if step - units.born[n] > 3]
        gone = ranked[0]
        rest = [n for n in range(8) if n != gone]
        assert after.born[gone] == step
        assert after.utility[gone] == 0
        assert not now.head.weight[:, gone].any()
        assert now.body[1].bias[gone] == 0
        assert not torch.equal(now.body[1].weight[gone], model.body[1].weight[gone])
        assert torch.equal(now.head.weight[:, rest], model.head.weight[:, rest])
        assert torch.equal(now.body[1].weight[rest], model.body[1].weight[rest])
        assert torch.equal(now.head.bias, model.head.bias)
        assert sum(step - 3 > born for born in after.born) == sum(step - 3 > born for born in after.births)


def test_new_weights_vary_as_the_layer_did_at_the_start():
    learner = opened(model=Net(200), batch=8)
    deviation = float(learner.model.body[1].weight.detach().std())
    strategy = ContinualBackprop(replacement_rate=1.0, maturity_threshold=1)
    strategy.start(learner, syllabus())
    learner.begin(lesson(images(FIRST)))
    strategy.steps = 2
    strategy.replace(learner, chain(learner.model)[0], strategy.units[0], 200, learner.rng("test"))
    fresh = learner.model.body[1].weight.detach()
    assert fresh.std().item() == pytest.approx(deviation, rel=0.05)
    assert fresh.abs().max().item() <= 3**0.5 * deviation


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_new_unit_begins_anew_in_the_optimiser_and_in_batch_normalisation(optimizer):
    learner = opened(model=Normalised(), batch=8, optimizer=optimizer, momentum=0.9, lr=0.01)
    strategy = ContinualBackprop(replacement_rate=1e-9)
    strategy.start(learner, syllabus())
    learner.begin(two_lessons()[0])
    strategy.learn(learner, two_lessons()[0])
    model, state = learner.model, learner.optim.torch.state
    (conv, norm, fc), (_, none, head) = chain(model)
    assert none is None
    assert head is model.head
    strategy.steps = 1000
    before = copy.deepcopy(model.state_dict())
    strategy.units[0].utility[:] = torch.tensor([3.0, 1.0, 0.5, 2.0])
    strategy.replace(learner, (conv, norm, fc), strategy.units[0], 2, learner.rng("test"))
    now = model.state_dict()
    assert strategy.units[0].born.tolist() == [0, 1000, 1000, 0]
    assert not torch.equal(now["body.0.weight"][1:3], before["body.0.weight"][1:3])
    assert torch.equal(now["body.0.weight"][[0, 3]], before["body.0.weight"][[0, 3]])
    assert not now["body.5.weight"][:, 4:12].any()
    assert torch.equal(now["body.5.weight"][:, :4], before["body.5.weight"][:, :4])
    assert norm.weight.tolist()[1:3] == [1, 1] == norm.running_var.tolist()[1:3]
    assert norm.bias.tolist()[1:3] == [0, 0] == norm.running_mean.tolist()[1:3]
    assert torch.equal(norm.running_mean[[0, 3]], before["body.1.running_mean"][[0, 3]])
    for name in {"sgd": ["momentum_buffer"], "adam": ["exp_avg", "exp_avg_sq"]}[optimizer]:
        assert not state[conv.weight][name][1:3].any()
        assert state[conv.weight][name][[0, 3]].any()
        assert not state[fc.weight][name][:, 4:12].any()
        assert state[fc.weight][name][:, :4].any()


@pytest.mark.parametrize("base", [Naive, lambda: ER(memory_size=20)])
def test_without_replacement_it_is_its_base(base):
    assert same_run(ContinualBackprop(replacement_rate=0, base=base()), base())
    assert same_run(ContinualBackprop(replacement_rate=0.1, maturity_threshold=20, base=base()), base())
    assert not same_run(ContinualBackprop(replacement_rate=0.1, maturity_threshold=5, base=base()), base())


def test_how_many_are_mature_is_known_on_the_host(monkeypatch):
    found: list = []

    def step(self, learner, links, inputs):
        real(self, learner, links, inputs)
        for units in self.units:
            limit = self.steps - self.maturity_threshold
            found.append((int((units.born < limit).sum()), sum(born < limit for born in units.births)))
            assert 0 <= units.owed < 1

    real = ContinualBackprop.step
    monkeypatch.setattr(ContinualBackprop, "step", step)
    learner = opened(batch=4, epochs=3, model=Normalised(), lr=0.01)
    teach(learner, ContinualBackprop(replacement_rate=0.2, maturity_threshold=4, decay=0.9), two_lessons())
    assert len(found) == 2 * 60
    assert all(truth == host for truth, host in found)
    assert len(set(found)) > 3


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_other_networks_are_refused(name):
    entry = catalogue.resolve("model", name)
    model = entry(width=4) if name == "resnet18" else entry(depth=1)
    with pytest.raises(Mistake, match=r"layers that follow one another \(model=mlp, cnn, convbn\); this model has a "):
        ContinualBackprop().start(opened(model=model, side=16), syllabus(side=16))


def test_a_network_without_hidden_units_is_refused():
    with pytest.raises(Mistake, match="this model has none"):
        ContinualBackprop().start(opened(model=Net(0)), syllabus())


@pytest.mark.parametrize("name", ["mlp", "cnn", "convbn"])
def test_it_learns_with_the_networks_it_is_for(name):
    learner = opened(model=catalogue.resolve("model", name)(), side=16, batch=8, lr=0.01)
    strategy = ContinualBackprop(replacement_rate=0.02, maturity_threshold=2)
    teach(learner, strategy, [lesson(images(FIRST, side=16)), lesson(images(SECOND, side=16), 1)])
    assert [len(units.births) for units in strategy.units] == {
        "mlp": [100, 100], "cnn": [10, 20, 50], "convbn": [24, 48, 96]
    }[name]  # fmt: skip
    assert all(units.births[-1] > 0 for units in strategy.units)
    assert weights(learner).isfinite().all()


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_there_while_it_trains_and_see_nothing_else():
    """A look within an experience, and what runs on a copy of the network, leaves what is learned as it is."""
    found = []
    for looks in (False, True):
        learner = opened(batch=8)
        strategy = ContinualBackprop(replacement_rate=0.2, maturity_threshold=2)

        def look(count, learner=learner):
            assert hooks(learner.model) == 1
            learner.model(1e3 * torch.ones(3, 1, 4, 4))
            copy.deepcopy(learner.model).eval()(1e3 * torch.ones(3, 1, 4, 4))

        if looks:
            learner.looks = Looks((5,), look)
        teach(learner, strategy, two_lessons())
        assert hooks(learner.model) == 0
        found.append(weights(learner))
    assert torch.equal(*found)


def test_hooks_are_gone_when_training_fails():
    class Fails(Naive):
        def loss(self, learner, batch):
            raise ArithmeticError

    learner = opened()
    with pytest.raises(ArithmeticError):
        teach(learner, ContinualBackprop(base=Fails()), two_lessons()[:1])
    assert hooks(learner.model) == 0


@pytest.mark.parametrize("base", [Naive, lambda: DER(memory_size=60), lambda: KFPF(memory_size=60), LwF])
def test_it_goes_on_while_it_replaces(base):
    check_resume(
        ContinualBackprop(replacement_rate=0.01, maturity_threshold=5, base=base()),
        learner=Learner(epochs=2, batch=16, threads=1, device="cpu", momentum=0.5),
    )


def test_a_phase_that_trains_the_head_replaces_no_unit_of_the_body():
    learner = opened(batch=8)
    strategy = ContinualBackprop(replacement_rate=0.5, maturity_threshold=1)
    teach(learner, strategy, two_lessons()[:1])
    learner.begin(two_lessons()[1])
    before = copy.deepcopy(learner.model.body.state_dict())
    with learner.within(strategy), learner.only(["head.weight", "head.bias"]):
        learner.fit(learner.batches(images(SECOND)), strategy.base.loss, optimizer=learner.new_optimizer(5))
    assert all(torch.equal(before[name], value) for name, value in learner.model.body.state_dict().items())
