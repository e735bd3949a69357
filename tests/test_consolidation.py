import copy

import pytest
import torch
import torch.nn.functional as F
from small import Linear, images, lesson, opened, teach, weights
from test_prototypes import final_accuracy
from test_strategies import same_run, two_lessons
from torch import nn

from clbench import catalogue
from clbench.batch import Batch
from clbench.config import resolve
from clbench.errors import Mistake
from clbench.strategies.baselines import Naive
from clbench.strategies.consolidation import EWC, pull
from clbench.strategies.paths import SI, RWalk
from clbench.strategies.replay import ER
from clbench.strategy import Strategy
from clbench.testing import check_resume

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


class Stepped(Strategy):
    """Notes the model and the batch at each step, before it."""

    def start(self, learner, syllabus):
        self.log = []

    def loss(self, learner, batch):
        self.log.append((copy.deepcopy(learner.model), batch))
        return super().loss(learner, batch)


def gradient(model, batch):
    """Of the loss alone, in one row."""
    logits = model(batch.x)
    return flat(torch.autograd.grad(F.cross_entropy(logits, batch.y), list(model.parameters()))).detach()


# The penalty.


def test_the_pull_by_hand():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.fill_(3.0)
    model(torch.ones(1, 2)).sum().backward()
    pull(model, [torch.tensor([[0.0, 4.0]]), torch.zeros(1)], 0.5, [torch.tensor([[3.0, 1.0]]), torch.tensor([10.0])])
    # The loss' own gradient is 1 everywhere; 2 * 0.5 * importance * (theta - anchor) comes on top.
    assert model.weight.grad.tolist() == [[1 + 3 * 1, 1 + 1 * (2 - 4)]]
    assert model.bias.grad.tolist() == [1 + 10 * 3]


def test_the_pull_is_the_gradient_of_the_penalty_and_leaves_alone_what_does_not_train():
    learner = opened()
    model, x = learner.model, torch.randn(5, 1, 4, 4)
    anchor, importance = ([torch.rand_like(p) for p in model.parameters()] for _ in range(2))
    first = next(model.parameters()).requires_grad_(False)
    model(x).sum().backward()
    pull(model, anchor, 0.7, importance)
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    penalty = sum((w * (p - a) ** 2).sum() for p, a, w in zip(model.parameters(), anchor, importance, strict=True))
    (model(x).sum() + 0.7 * penalty).backward()
    assert first.grad is found[0] is None
    assert torch.allclose(flat(found[1:]), flat([p.grad for p in model.parameters()][1:]))


# EWC.


def fisher_by_a_loop(model, data, learner, weigh):
    """One backward pass a sample."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()))
    for n in range(len(data)):
        raw, y = data.gather(torch.tensor([n]))
        log = F.log_softmax(model(learner.encode(raw)), 1)[0, y]
        squared = flat(torch.autograd.grad(log, list(model.parameters()))) ** 2
        total += (log.exp() if weigh else 1.0) * squared
    return (total / len(data)).detach()


@pytest.mark.parametrize("kind", ["weighted", "empirical"])
@pytest.mark.parametrize("model", ["mlp", "cnn", "convbn", "resnet18", "vit"])
def test_the_fisher_information_is_that_of_a_loop_over_samples(model, kind):
    entry = catalogue.resolve("model", model)
    learner = opened(model=entry(width=4) if model == "resnet18" else entry(), side=16, eval_batch=5)
    data = images([0, 3, 1, 1, 2, 0, 3], side=16)
    with torch.no_grad():
        for module in learner.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(learner.model.state_dict())
    found = EWC(fisher=kind).information(learner, data)
    assert torch.allclose(flat(found), fisher_by_a_loop(learner.model, data, learner, kind == "weighted"), rtol=1e-3)
    assert all(torch.equal(before[name], value) for name, value in learner.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in learner.model.parameters())


def test_the_fisher_information_by_hand():
    learner = opened(classes=2, side=2, model=Linear(torch.zeros(2, 4)))
    data = images([0, 1, 1], side=2)
    x = learner.encode(data.source.x).flatten(1)
    # Both labels have probability 1/2, so d log p / d w is x / 2 at the label and - x / 2 at the other.
    expected = [sum(0.5 * (v / 2) ** 2 for v in pixel) / 3 for pixel in x.T.tolist()]
    assert flat(EWC().information(learner, data)).tolist() == pytest.approx(expected * 2)
    assert flat(EWC(fisher="empirical").information(learner, data)).tolist() == pytest.approx(
        [2 * value for value in expected] * 2
    )


def test_samples_of_the_fisher_information_are_a_draw_without_repetition():
    learner, data = opened(), images(FIRST)
    few = EWC(fisher_samples=6).information(learner, data)
    drawn = torch.from_numpy(learner.rng("fisher").permutation(40)[:6])
    assert len(set(drawn.tolist())) == 6
    assert torch.allclose(flat(few), flat(EWC().information(learner, data.subset(drawn))))
    assert torch.equal(flat(EWC(fisher_samples=40).information(learner, data)), flat(EWC().information(learner, data)))


@pytest.mark.parametrize("mask", ["seen", "experience"])
def test_the_fisher_information_is_of_the_loss_that_is_trained_with(mask):
    learner, data = opened(loss_mask=mask), images(FIRST)
    learner.begin(lesson(data))
    found = EWC().information(learner, data)
    assert flat(found[-1:]).tolist()[2:] == [0, 0]
    assert all(f.isfinite().all() for f in found)


def test_a_loss_of_the_labels_in_the_batch_has_no_probability_of_one_sample():
    with pytest.raises(Mistake, match=r"learner\.loss_mask=batch leaves it one label"):
        teach(opened(loss_mask="batch"), EWC(), [])


def test_the_operations_of_the_fisher_information_are_those_of_the_gradient():
    learner, data = opened(model=catalogue.resolve("model", "cnn")(), side=16), images(FIRST, side=16)
    EWC(fisher_samples=8).information(learner, data)
    eight = learner.flops.total
    assert eight == learner.price(Batch(torch.zeros(8, 1, 16, 16), torch.zeros(8).long(), torch.zeros(8)), Naive().loss)
    EWC().information(learner, data)
    assert learner.flops.total == 6 * eight


@pytest.mark.parametrize(("options", "strength"), [({}, 2 * 3.0), ({"half": True}, 3.0), ({"base": Naive()}, 2 * 3.0)])
def test_a_step_of_ewc(options, strength):
    """The first step of the third lesson, by an independent few lines."""
    learner, log = opened(batch=40, lr=0.05), Stepped()
    options = {**options, "base": log}
    lessons = [lesson(images(FIRST)), lesson(images(SECOND), 1), lesson(images([1, 2] * 20), 2)]
    strategy = EWC(ewc_lambda=3.0, gamma=0.25, **options)
    teach(learner, strategy, lessons)
    (_, _), (model1, _), (model2, batch) = log.log
    one = fisher_by_a_loop(model1, lessons[0].train, learner, True)
    two = fisher_by_a_loop(model2, lessons[1].train, learner, True)
    # The penalty's gradient is 0 where a lesson starts; the importance of the last step is what is left of both.
    start = flat(p.detach() for p in model2.parameters())
    assert torch.allclose(weights(learner), start - 0.05 * gradient(model2, batch), atol=1e-6)
    three = fisher_by_a_loop(learner.model, lessons[2].train, learner, True)
    assert torch.allclose(flat(strategy.importance), 0.25 * (0.25 * one + two) + three, rtol=1e-3, atol=1e-9)
    assert torch.equal(flat(strategy.anchor), weights(learner))
    learner.begin(lesson(images(FIRST), 3))
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(0.1)
    moved, before = copy.deepcopy(learner.model), weights(learner)
    strategy.base.log.clear()
    with learner.within(strategy):
        learner.fit(learner.batches(images(FIRST)), strategy.base.loss)
    _, batch = strategy.base.log[0]
    expected = gradient(moved, batch) + strength * flat(strategy.importance) * 0.1
    assert torch.allclose(weights(learner), before - 0.05 * expected, atol=1e-6)


def test_a_normalised_fisher_information_ends_at_one():
    learner, strategy = opened(batch=8), EWC(normalise=True)
    teach(learner, strategy, two_lessons()[:1])
    plain = EWC()
    teach(other := opened(batch=8), plain, two_lessons()[:1])
    assert torch.equal(weights(learner), weights(other))
    assert flat(strategy.importance).max() == 1
    assert torch.allclose(flat(strategy.importance), flat(plain.importance) / flat(plain.importance).max())


# Path integrals.


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_omega_of_si_is_the_sum_of_the_losses_gradients_times_the_steps(optimizer):
    learner, log = opened(batch=8, lr=0.02, optimizer=optimizer), Stepped()
    strategy = SI(c=0.8, xi=0.1, base=log)
    lessons = two_lessons()
    first = weights(learner)
    teach(learner, strategy, lessons)
    ends = [first, None, weights(learner)]
    models = [model for model, _ in log.log] + [learner.model]
    ends[1] = flat(p.detach() for p in models[5].parameters())
    big = torch.zeros_like(first)
    for n in range(2):
        omega = torch.zeros_like(first)
        for at in range(5 * n, 5 * n + 5):
            before, after = (flat(p.detach() for p in m.parameters()) for m in (models[at], models[at + 1]))
            omega += gradient(models[at], log.log[at][1]) * (before - after)
        big = (big + omega / ((ends[n + 1] - ends[n]) ** 2 + 0.1)).clamp(min=0)
    assert torch.allclose(flat(strategy.importance), big, rtol=1e-3, atol=1e-7)
    assert torch.equal(flat(strategy.anchor), weights(learner))
    assert not any(part.any() for part in strategy.omega)


def test_a_step_of_si_is_clipped_with_its_penalty():
    learner, log = opened(batch=8, lr=0.02), Stepped()
    strategy = SI(c=200.0, xi=0.01, clip=0.05, base=log)
    teach(learner, strategy, two_lessons()[:1])
    anchor, big = flat(strategy.anchor), flat(strategy.importance)
    learner.begin(two_lessons()[1])
    log.log.clear()
    with learner.within(strategy):
        learner.fit(learner.batches(images(SECOND)), log.loss)
    clipped = 0
    for (model, batch), (after, _) in zip(log.log, [*log.log[1:], (learner.model, None)], strict=True):
        before = flat(p.detach() for p in model.parameters())
        raw = gradient(model, batch) + 2 * 200.0 * big * (before - anchor)
        clipped += int((raw.abs() > 0.05).sum())
        moved = before - flat(p.detach() for p in after.parameters())
        assert torch.allclose(moved, 0.02 * raw.clamp(-0.05, 0.05), atol=1e-6)
    assert clipped


def test_scores_of_rwalk():
    learner, log = opened(batch=8, lr=0.05), Stepped()
    strategy = RWalk(rwalk_lambda=0.5, alpha=0.6, interval=2, xi=0.01, base=log)
    teach(learner, strategy, two_lessons())
    models = [model for model, _ in log.log] + [learner.model]
    at = [flat(p.detach() for p in model.parameters()) for model in models]
    gradients = [gradient(model, batch) for model, batch in log.log]
    fisher, past, scores = None, None, torch.zeros_like(at[0])
    for first, last in [(0, 2), (2, 4), (4, 5), (5, 7), (7, 9), (9, 10)]:
        squares = sum(gradients[n] ** 2 for n in range(first, last)) / (last - first)
        fisher = squares if fisher is None else fisher
        omega = sum(gradients[n] * (at[n] - at[n + 1]) for n in range(first, last))
        scores = scores + (omega / (0.5 * fisher * (at[last] - at[first]) ** 2 + 0.01)).clamp(min=0)
        fisher = 0.6 * squares + 0.4 * fisher
        if last in (5, 10):
            past, scores = scores if past is None else (past + scores) / 2, torch.zeros_like(scores)
        if last == 5:
            held = sum((part - part.min()) / (part.max() - part.min()) for part in (fisher, past))
    expected = sum((part - part.min()) / (part.max() - part.min()) for part in (fisher, past))
    assert torch.allclose(flat(strategy.importance), expected, rtol=1e-3, atol=1e-6)
    # Steps of the second lesson are held by what the first left.
    for n in range(5, 10):
        step = gradients[n] + 2 * 0.5 * held * (at[n] - at[5])
        assert torch.allclose(at[n] - at[n + 1], 0.05 * step, atol=1e-6)


# All of them.


@pytest.mark.parametrize("strategy", [EWC(ewc_lambda=0), SI(c=0, clip=None), RWalk(rwalk_lambda=0)])
def test_without_its_penalty_it_is_naive(strategy):
    assert same_run(strategy, Naive())


@pytest.mark.parametrize("strategy", [EWC(), SI(clip=None), RWalk()])
def test_the_first_lesson_is_learned_freely(strategy):
    assert same_run(strategy, Naive(), lessons=lambda: two_lessons()[:1])


@pytest.mark.parametrize("kind", [EWC, SI, RWalk])
def test_it_goes_over_replay(kind):
    option = {EWC: "ewc_lambda", SI: "c", RWalk: "rwalk_lambda"}[kind]
    free = {option: 0.0, **({"clip": None} if kind is SI else {})}
    assert same_run(kind(**free, base=ER(memory_size=20)), ER(memory_size=20))
    assert not same_run(kind(base=ER(memory_size=20)), ER(memory_size=20))
    check_resume(kind(base=ER(memory_size=60)))


@pytest.mark.parametrize("kind", [EWC, SI, RWalk])
def test_what_does_not_train_in_a_phase_is_neither_held_nor_counted(kind):
    """It still has the gradients of a step that is over."""
    learner, strategy = opened(batch=8), kind()
    teach(learner, strategy, two_lessons()[:1])
    learner.begin(two_lessons()[1])
    with learner.within(strategy):
        learner.fit(learner.batches(images(SECOND), 20), strategy.base.loss)
        head = [name for name, _ in learner.model.named_parameters() if name.startswith("head")]
        notes = [name for name in ("omega", "squares") if hasattr(strategy, name)]
        before = {name: copy.deepcopy(getattr(strategy, name)) for name in notes}
        gradients = [p.grad.clone() for p in learner.model.body.parameters()]
        with learner.only(head):
            phase = learner.new_optimizer(2)
            learner.fit(learner.batches(images(SECOND), 20), strategy.base.loss, optimizer=phase)
    body = len(gradients)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, learner.model.body.parameters(), strict=True))
    for name in notes:
        now = getattr(strategy, name)
        assert torch.equal(flat(now[:body]), flat(before[name][:body]))
        assert not torch.equal(flat(now[body:]), flat(before[name][body:]))


@pytest.mark.parametrize(
    ("strategy", "seed"),
    [(s, n) for s in (EWC(ewc_lambda=100.0), SI(c=5.0, xi=0.01), RWalk(rwalk_lambda=1.0)) for n in range(2)],
)
def test_it_forgets_less_than_naive(strategy, seed):
    assert final_accuracy(strategy, seed) > final_accuracy(Naive(), seed)


@pytest.mark.parametrize("name", ["ewc", "si"])
def test_published_values_are_for_the_strategy_alone(name):
    alone = resolve({"stream": "permuted_mnist", "strategy": name, "recipe": "der2020"})
    named = resolve({"stream": "permuted_mnist", "strategy": name, "strategy.base": "naive", "recipe": "der2020"})
    over = resolve({"stream": "permuted_mnist", "strategy": name, "strategy.base": "er", "recipe": "der2020"})
    assert alone.label == named.label == f"{name}(naive)"
    assert alone.learner.lr == named.learner.lr == 0.1
    assert over.learner.lr == 0.2
    assert "Buzzega" in alone.preset()
    assert f"method {name}" not in over.preset()
