import random
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from small import Linear, Net, images, lesson, numbers, opened, teach, weights
from torch import nn

from clbench.batch import Batch
from clbench.errors import Mistake
from clbench.flops import counted
from clbench.learner import Diverged, Learner
from clbench.looks import Looks
from clbench.memory import Reservoir
from clbench.seeds import derive
from clbench.strategies.baselines import Joint
from clbench.strategies.distillation import DER, DERPP
from clbench.strategies.replay import ER
from clbench.strategy import Around, Strategy, layers, needs, resumable, whole_stream
from clbench.transform import ImageTransform


def cross_entropy(logits, labels, opened):
    """The mean of log sum exp(open logits) - own logit, and its gradient, a sample at a time."""
    total, grad = 0.0, np.zeros_like(logits)
    for row, label, classes, g in zip(logits, labels, opened, grad, strict=True):
        exponentials = {c: np.exp(row[c]) for c in classes}
        total += np.log(sum(exponentials.values())) - row[label]
        for c in classes:
            g[c] = (exponentials[c] / sum(exponentials.values()) - (c == label)) / len(labels)
    return total / len(labels), grad


LABELS = [0, 3, 3, 2]
"""of a batch; the experiences taught are {0, 1} and {2, 3}, label 4 comes later"""
OPEN = {
    "all": [{0, 1, 2, 3, 4}] * 4,
    "seen": [{0, 1, 2, 3}] * 4,
    "experience": [{0, 1}, {2, 3}, {2, 3}, {2, 3}],
    "batch": [{0, 2, 3}] * 4,
}


@pytest.mark.parametrize("mask", OPEN)
def test_loss_masks_leave_the_right_labels_open(mask):
    learner = opened(classes=5, loss_mask=mask)
    learner.begin(lesson(images([0, 1])))
    learner.begin(lesson(images([3, 2]), 1))
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    loss = learner.criterion(logits, torch.tensor(LABELS))
    loss.backward()
    value, grad = cross_entropy(logits.detach().numpy(), LABELS, OPEN[mask])
    assert loss.item() == pytest.approx(value)
    np.testing.assert_allclose(logits.grad.numpy(), grad, atol=1e-12)
    for row, classes in zip(logits.grad, OPEN[mask], strict=True):
        closed = sorted({0, 1, 2, 3, 4} - classes)
        assert torch.equal(row[closed], torch.zeros(len(closed), dtype=torch.float64))


def test_a_closed_label_does_not_move_in_training():
    learner = opened(classes=6, loss_mask="seen", momentum=0.9)
    before = learner.model.head.weight.detach().clone()
    teach(learner, Strategy(), [lesson(images([0, 1] * 20)), lesson(images([3, 4] * 20), 1)], classes=6)
    moved = (learner.model.head.weight != before).any(1)
    assert moved.tolist() == [True, True, False, True, True, False]


def test_seeds_are_derived_as_ever():
    assert derive(0, "init") == 1391976149099393129
    assert derive(1, "init") == 7559316667372116734
    assert derive(0, "order") == 3991725939186754870
    assert derive(0, "order", 7) == 2962348706500118512
    assert all(0 <= derive(seed, "order", 3) < 2**63 for seed in range(100))


def test_random_numbers_are_those_of_seed_purpose_and_step():
    learner = opened(seed=3)
    learner.step = 5
    first = learner.rng("memory").random(4)
    assert np.array_equal(first, np.random.default_rng(derive(3, "memory", 5)).random(4))
    learner.step = 6
    assert not np.array_equal(first, learner.rng("memory").random(4))


@pytest.mark.parametrize("size", [1, 8, 10, 64])
def test_an_epoch_is_every_sample_once(size):
    learner, data = opened(batch=size), images([0, 1, 2] * 11)
    batches = list(learner.batches(data))
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(33))
    assert [len(b.y) for b in batches] == [min(size, 33 - start) for start in range(0, 33, size)]
    for batch in batches:
        assert numbers(batch.raw) == batch.index.tolist()
        assert torch.equal(batch.y, data.labels[batch.index])
        assert torch.equal(batch.x, learner.encode(batch.raw))


def order(learner, data, step=0, size=None):
    learner.step = step
    return torch.cat([batch.index for batch in learner.batches(data, size)]).tolist()


def test_the_order_depends_on_seed_and_step_alone():
    data = images([0] * 50)
    first = order(opened(seed=1), data)
    other = opened(seed=1, batch=7, lr=0.5, model=Net(3))
    torch.manual_seed(9)
    other.rng("memory").random(100)
    assert order(other, data) == first
    assert order(other, data, size=3) == first
    assert order(other, data, step=1) != first
    assert order(opened(seed=2), data) != first


def test_augmentation_depends_on_seed_and_step_alone():
    data, transform = images([0] * 50), ImageTransform(crop=1, flip=True)
    shown = [
        torch.cat([b.x for b in learner.batches(data, size)])
        for learner, size in [(opened(transform=transform), 5), (opened(transform=transform, lr=1.0), 5)]
    ]
    assert torch.equal(*shown)
    assert not torch.equal(shown[0], opened().encode(torch.cat([b.raw for b in opened().batches(data)])))


def test_passes_count_and_call_the_run_back_after_each():
    learner, called = opened(epochs=3), []
    learner.begin(lesson(images([0, 1])))
    learner.after_epoch = lambda call, epoch: called.append((call, epoch))
    seen = []
    for epoch in learner.passes():
        assert len(called) == epoch
        seen.append(epoch)
    assert seen == [0, 1, 2]
    assert list(learner.passes(2)) == [0, 1]
    assert called == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    learner.begin(lesson(images([0, 1]), 1))
    assert list(learner.passes(1)) == [0]
    assert called[-1] == (0, 0)


def test_steps_are_counted_batch_by_batch():
    learner = opened(batch=8, epochs=3)
    assert learner.steps(33) == 15
    assert learner.steps(32, epochs=1) == 4
    teach(learner, Strategy(), [lesson(images([0] * 33))])
    assert learner.step == 15


def test_a_step_is_gradient_descent():
    weight = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    learner, data = opened(2, model=Linear(weight), lr=0.3, batch=6), images([0, 1, 1, 0, 1, 1])
    teach(learner, Strategy(), [lesson(data)], classes=2)
    x = data.source.x.flatten(1).double() / 255
    _, grad = cross_entropy((x @ weight.double().T).numpy(), data.labels.tolist(), [{0, 1}] * 6)
    expected = weight.double() - 0.3 * torch.from_numpy(grad).T @ x
    torch.testing.assert_close(learner.model.head.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_what_a_loss_kept_comes_back_after_its_step():
    learner, data, seen = opened(batch=4), images([0, 1] * 10), []
    learner.begin(lesson(data))

    def batches():
        for number, batch in enumerate(learner.batches(data)):
            before = weights(learner)
            kept = yield batch
            assert not torch.equal(before, weights(learner))
            seen.append((number, learner.step, kept))

    def loss(learner, batch):
        logits = learner(batch.x)
        return learner.criterion(logits, batch.y), logits

    learner.fit(batches(), loss)
    assert [(number, step) for number, step, _ in seen] == [(n, n + 1) for n in range(5)]
    assert all(kept.shape == (4, 4) and not kept.requires_grad for _, _, kept in seen)


def test_one_batch_is_fetched_a_step_and_none_ahead():
    learner, data, fetched = opened(batch=4), images([0, 1] * 10), []
    learner.begin(lesson(data))

    class Source:
        def __init__(self):
            self.batches = learner.batches(data)

        def __iter__(self):
            return self

        def __next__(self):
            fetched.append(learner.step)
            return next(self.batches)

    learner.fit(Source(), Strategy().loss)
    assert fetched == [0, 1, 2, 3, 4, 5]


def test_adjust_comes_between_backward_and_step():
    learner, data = opened(batch=4), images([0, 1] * 2)
    learner.begin(lesson(data))
    start = weights(learner)

    def adjust(learner):
        for p in learner.model.parameters():
            assert p.grad is not None
            assert p.grad.abs().sum() > 0
            p.grad.fill_(1.0)

    learner.fit(learner.batches(data), Strategy().loss, adjust)
    torch.testing.assert_close(weights(learner), start - learner.lr)


def test_an_optimizer_of_its_own_leaves_that_of_the_experience_alone():
    learner, data = opened(batch=4, momentum=0.9), images([0, 1] * 2)
    learner.begin(lesson(data))
    own = learner.new_optimizer(1, lr=0.01)
    learner.fit(learner.batches(data), Strategy().loss, optimizer=own)
    assert own.done == 1
    assert learner.optim.done == 0
    assert not learner.optim.torch.state


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_step_without_a_finite_loss_is_named(bad):
    learner, data = opened(batch=4), images([0, 1] * 20)
    learner.begin(lesson(data))
    learner.fit(learner.batches(data), Strategy().loss)
    assert np.isfinite(learner.last_loss)

    def loss(learner, batch):
        value = Strategy().loss(learner, batch)
        return value * bad if learner.step in (16, 18) else value

    with pytest.raises(Diverged, match=r"^the loss was (nan|inf) at step 17$") as error:
        learner.fit(learner.batches(data), loss)
    assert error.value.step == 17


def test_last_loss_is_the_mean_of_the_pass():
    learner, data, losses = opened(batch=4), images([0, 1] * 10), []
    learner.begin(lesson(data))

    def loss(learner, batch):
        value = Strategy().loss(learner, batch)
        losses.append(value.item())
        return value

    learner.fit(learner.batches(data), loss)
    assert learner.last_loss == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("keep", [True, False])
def test_keep_optimizer_keeps_momentum_from_lesson_to_lesson(keep):
    learner = opened(batch=4, momentum=0.9, keep_optimizer=keep)
    lessons = [lesson(images([0, 1] * 10)), lesson(images([2, 3] * 10), 1)]
    teach(learner, Strategy(), lessons[:1])
    learner.begin(lessons[1])
    momenta = [learner.optim.torch.state[p].get("momentum_buffer") for p in learner.model.parameters()]
    assert all(m is not None and m.abs().sum() > 0 for m in momenta) if keep else momenta == [None] * len(momenta)


def test_training_mode_is_on_in_steps_and_off_after():
    learner, data, modes = opened(batch=4), images([0, 1] * 4), []
    learner.begin(lesson(data))
    assert not learner.model.training

    def loss(learner, batch):
        modes.append(learner.model.training)
        return Strategy().loss(learner, batch)

    learner.fit(learner.batches(data), loss)
    assert modes == [True, True]
    assert not learner.model.training


def test_weights_are_those_of_the_seed_whatever_was_drawn_before():
    first = weights(opened(seed=4))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(weights(opened(seed=4)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(weights(opened(seed=5)), first)


@dataclass
class Dropped:
    """A network whose steps draw from torch's own generator."""

    def build(self, shape, classes):
        body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(16, classes)))


def test_dropout_is_that_of_seed_and_step():
    data = images([0, 1] * 20)
    found = []
    for noise in (1, 2):
        learner = opened(model=Dropped(), epochs=2)
        learner.begin(lesson(data))
        for _ in learner.passes():
            torch.manual_seed(noise)
            random.seed(noise)
            learner.fit(learner.batches(data), Strategy().loss)
        found.append(weights(learner))
    assert torch.equal(*found)


def linear_flops(batch, *sizes):
    """Multiply-adds, twice, of a forward and a backward pass; the first layer has no gradient of its input."""
    products = [a * b for a, b in pairwise(sizes)]
    return 2 * batch * (3 * sum(products) - products[0])


@pytest.mark.parametrize("batch", [1, 6])
def test_operations_of_an_mlp(batch):
    learner = opened(classes=4, batch=batch, epochs=3)
    teach(learner, Strategy(), [lesson(images([0, 1] * 6))])
    assert learner.flops.total == 3 * linear_flops(12, 16, 8, 4)


@dataclass
class Convolutions:
    """4 x 4 images: two convolutions and a linear layer."""

    def build(self, shape, classes):
        layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Flatten()]
        return nn.Sequential(OrderedDict(body=nn.Sequential(*layers), head=nn.Linear(20, classes)))


def test_operations_of_convolutions():
    learner = opened(model=Convolutions(), batch=6)
    teach(learner, Strategy(), [lesson(images([0, 1] * 6))])
    first, second, head = 3 * 16 * 9, 5 * 4 * 3 * 9, 20 * 4
    assert learner.flops.total == 2 * 12 * (2 * first + 3 * second + 3 * head)


@pytest.mark.parametrize(("strategy", "times"), [(ER, 2), (DER, 2), (DERPP, 3)])
def test_operations_of_replay(strategy, times):
    learner = opened(batch=6)
    teach(learner, strategy(memory_size=30), [lesson(images([0, 1] * 15)), lesson(images([2, 3] * 15), 1)])
    naive = linear_flops(6, 16, 8, 4)
    assert learner.flops.total == naive + 9 * times * naive


def test_operations_of_what_is_frozen_are_not_counted():
    learner = opened(batch=6)
    for p in learner.model.body.parameters():
        p.requires_grad_(False)
    teach(learner, Strategy(), [lesson(images([0, 1] * 3))])
    assert learner.flops.total == 2 * 6 * (16 * 8 + 2 * 8 * 4)


def test_operations_of_attention_are_those_of_its_two_products():
    q, k, v = torch.randn(3, 2, 3, 5, 4)
    with counted() as count:
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert count() == 2 * (2 * (2 * 3) * 5 * 5 * 4)


def test_bfloat16_runs_and_gives_logits_in_full():
    learner, data = opened(classes=2, precision="bfloat16", batch=8, epochs=20, lr=0.5), images([0, 1] * 16)
    data.source.x[1::2] = 255 - data.source.x[::2]
    seen = []
    teach(learner, Strategy(), [lesson(data)], classes=2)
    logits = learner(learner.encode(data.source.x))
    seen.append(logits.dtype)
    exact = learner.model(learner.encode(data.source.x))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)
    assert (logits.argmax(1) == data.labels).float().mean() > 0.9
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())


def test_threads_are_those_asked_for():
    try:
        opened(threads=3)
        assert torch.get_num_threads() == 3
    finally:
        opened(threads=1)
    assert torch.get_num_threads() == 1


def test_what_is_recalled_is_augmented_and_as_much_as_asked_for():
    memory, data = Reservoir(40), images([0, 1] * 20)
    memory.add(*data.gather(torch.arange(40)), np.random.default_rng(0), note=torch.arange(40))
    learner = opened(batch=8, transform=ImageTransform(crop=1))
    batch = learner.recall(memory, np.random.default_rng(0))
    assert len(batch.y) == 8
    assert batch.kept["note"].tolist() == numbers(batch.raw)
    assert torch.equal(batch.y, data.labels[numbers(batch.raw)])
    assert not torch.equal(batch.x, learner.encode(batch.raw))
    assert len(opened(batch=8, replay_batch=5).recall(memory, np.random.default_rng(0)).y) == 5
    assert len(learner.recall(memory, np.random.default_rng(0), 3).y) == 3
    assert learner.recall(Reservoir(5), np.random.default_rng(0)) is None


def test_joined_batches():
    a, b = (Batch(torch.full((2, 1), n), torch.full((2,), int(n)), torch.full((2, 1), n)) for n in (1.0, 2.0))
    both = a.joined(b)
    assert both.y.tolist() == [1, 1, 2, 2]
    assert both.x.flatten().tolist() == [1, 1, 2, 2]
    assert both.raw is a.raw
    assert both.index is None
    assert a.joined(None) is a


def test_schedules_end_with_each_experience():
    rates = []

    class Watching(Strategy):
        def adjust(self, learner):
            rates.append(learner.optim.torch.param_groups[0]["lr"])

    learner = opened(batch=5, epochs=4, lr=1.0, schedule="multistep", milestones=(2, 3), gamma=0.1)
    teach(learner, Watching(), [lesson(images([0] * 10)), lesson(images([1] * 5), 1)])
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 1, 1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"keep_optimizer": True, "schedule": "cosine"},
            "learner.schedule=cosine needs an optimiser made anew at each experience; learner.keep_optimizer=true "
            "keeps one. Choose learner.schedule=constant, or do not keep it.",
        ),
        (
            {"schedule": "multistep"},
            "learner.schedule=multistep needs learner.milestones, in epochs: learner.milestones=[35,45].",
        ),
    ],
)
def test_options_that_contradict_one_another(options, line):
    with pytest.raises(Mistake) as error:
        Learner(**options).check()
    assert str(error.value) == line


def test_a_device_that_is_not_there():
    with pytest.raises(Mistake, match=r"^learner.device=abacus: Expected one of cpu, cuda"):
        Learner(device="abacus").check()


# A training within another, and a strategy around another.


def test_a_fit_between_two_steps_leaves_the_outer_one_as_it_was():
    learner, data, modes = opened(batch=4), images([0, 1] * 10), []
    learner.begin(lesson(data))

    def batches():
        for batch in learner.batches(data):
            yield batch
            own = learner.new_optimizer(1)
            learner.fit(learner.batches(images([2, 3] * 2)), lambda le, b: 0 * Strategy().loss(le, b), optimizer=own)
            modes.append(learner.model.training)

    learner.fit(batches(), Strategy().loss)
    assert modes == [True] * 5
    assert not learner.model.training
    assert learner.step == 10
    assert learner.last_loss > 0.1


def test_the_step_that_diverged_is_named_though_others_came_between():
    learner, data = opened(batch=4), images([0, 1] * 10)
    learner.begin(lesson(data))

    def batches():
        for batch in learner.batches(data):
            yield batch
            learner.fit(learner.batches(images([2, 3] * 2)), Strategy().loss, optimizer=learner.new_optimizer(1))

    def loss(learner, batch):
        return Strategy().loss(learner, batch) * (float("nan") if learner.step == 4 else 1)

    with pytest.raises(Diverged, match=r"at step 5$"):
        learner.fit(batches(), loss)


@dataclass
class Marked(Around):
    """Notes when each of its parts is used, and scales the loss."""

    name: str = ""
    factor: float = 1.0

    def around_batches(self, learner, batches):
        for batch in batches:
            LOG.append(self.name)
            yield batch

    def around_loss(self, learner, loss):
        def outer(learner, batch):
            LOG.append(f"{self.name} loss")
            return self.factor * loss(learner, batch)

        return outer

    def around_adjust(self, learner, adjust):
        return lambda learner: LOG.append(f"{self.name} adjust")

    def around_optimizer(self, learner, optimizer):
        LOG.append(f"{self.name} optimizer")
        return optimizer


LOG: list[str] = []


def test_wrappers_fold_over_what_the_base_trains_with_from_the_inside_out():
    LOG.clear()
    data = images([0, 1] * 2)
    learner = opened(batch=4, lr=0.5)
    teach(learner, Marked(Marked(Strategy(), "inner", 3.0), "outer", 2.0), [lesson(data)])
    assert LOG == [
        "inner optimizer", "outer optimizer", "inner", "outer", "outer loss", "inner loss", "outer adjust",
    ]  # fmt: skip
    plain = opened(batch=4, lr=3.0)
    teach(plain, Strategy(), [lesson(data)])
    torch.testing.assert_close(weights(learner), weights(plain))


def test_what_is_not_overridden_is_the_base_s():
    lessons = [lesson(images([0, 1] * 10)), lesson(images([2, 3] * 10), 1)]
    one, other = opened(batch=4), opened(batch=4)
    teach(one, Around(Around(ER(10))), lessons)
    teach(other, ER(10), lessons)
    assert torch.equal(weights(one), weights(other))


def test_layers_say_what_the_whole_needs():
    assert [type(layer) for layer in layers(Around(Around(Joint())))] == [Around, Around, Joint]
    assert needs(Around(Joint())) == Joint.needs
    assert whole_stream(Around(Joint()))
    assert not whole_stream(Around(ER()))
    assert resumable(Around(ER()))


# Only some of it trains.


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(x))


class ANormed:
    def build(self, shape, classes):
        return Normed()


def test_only_holds_through_fits_that_come_within():
    learner = opened(model=ANormed(), batch=4)
    learner.begin(lesson(images([0, 1] * 4)))
    modes = []

    def batches():
        for batch in learner.batches(images([0, 1] * 4)):
            yield batch
            with learner.only(["head.weight"]):
                learner.fit(learner.batches(images([2, 3] * 2)), Strategy().loss, optimizer=learner.new_optimizer(1))
                modes.append((learner.model.body[1].training, learner.model.head.bias.requires_grad))
            modes.append((learner.model.body[1].training, learner.model.head.bias.requires_grad))

    learner.fit(batches(), Strategy().loss)
    assert modes == [(False, False), (True, True)] * 2
    assert not learner.model.body[1].training


def test_only_what_is_there_can_train():
    learner = opened(model=ANormed())
    with (
        learner.only(["head.weight"]),
        pytest.raises(Mistake, match=r"of head\.weight, which train, none .* head\.bias"),
        learner.only(["head.bias"]),
    ):
        pass
    assert all(p.requires_grad for p in learner.model.parameters())


# What it costs.


def test_the_price_of_a_step_is_what_fit_counts_and_none_is_done():
    learner, data = opened(model=ANormed(), batch=4), images([0, 1] * 4)
    learner.begin(lesson(data))
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    price = learner.price(learner.blank(4), Strategy().loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.model.state_dict().items())
    assert all(p.grad is None for p in learner.model.parameters())
    assert learner.flops.total == 0
    learner.fit(learner.batches(data), Strategy().loss)
    assert price == 3 * 4 * 16 * 4 * 2
    assert learner.flops.total == 2 * price
    fresh = opened(model=ANormed(), batch=4)
    fresh.begin(lesson(data))
    fresh.fit(fresh.batches(data), Strategy().loss)
    assert fresh.flops.total == learner.flops.total


@pytest.mark.parametrize("samples", [3, 4, 8, 10])
def test_plain_cost_is_what_naive_spends(samples):
    learner, other = opened(batch=4, epochs=3), opened(batch=4, epochs=3)
    teach(other, Strategy(), [lesson(images([0] * samples))])
    assert learner.plain_cost(samples) == other.flops.total


def test_what_is_spent_outside_fit_is_counted_once_and_multiplied():
    learner = opened(model=Linear(torch.ones(4, 16)))
    for _ in range(3):
        with learner.spending("means", (5, 16)):
            learner.model(torch.ones(5, 1, 4, 4))
    assert learner.flops.total == 3 * 2 * 5 * 16 * 4


def test_features_are_what_the_head_is_given():
    learner = opened()
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(learner.model.head(learner.features(x)), learner(x))


# Looks within an experience.


@pytest.mark.parametrize(
    ("counts", "steps", "expected"),
    [
        ((2,), 10, [(5, 2), (10, 2)]),
        ((10,), 10, [(step, 10) for step in range(1, 11)]),
        ((3,), 10, [(4, 3), (7, 3), (10, 3)]),
        ((10,), 3, [(1, 10), (2, 10), (3, 10)]),
        ((2, 3), 6, [(2, 3), (3, 2), (4, 3), (6, 2), (6, 3)]),
        ((), 4, []),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_looks_are_spread_evenly_over_the_steps_of_each_experience(counts, steps, expected, keep):
    learner, seen = opened(batch=2, epochs=2 - steps % 2, keep_optimizer=keep), []
    learner.looks = Looks(counts, lambda n: seen.append((learner.step, n, learner.model.training)))
    data = images([0, 1] * (steps // (2 - steps % 2)))
    teach(learner, Strategy(), [lesson(data), lesson(data, 1)])
    later = [(step + steps, n) for step, n in expected]
    assert seen == [(*look, False) for look in [*expected, *later]]


def test_a_phase_of_its_own_is_not_looked_into():
    learner, data, seen = opened(batch=4), images([0, 1] * 10), []
    learner.looks = Looks((5,), lambda n: seen.append(learner.step))
    learner.begin(lesson(data))
    learner.fit(learner.batches(data), Strategy().loss, optimizer=learner.new_optimizer(5))
    assert seen == []
    learner.fit(learner.batches(data), Strategy().loss)
    assert seen == [6, 7, 8, 9, 10]


def test_watchers_are_told_of_each_step_before_the_weights_move():
    told = []
    learner = opened(batch=4)
    experience = lesson(images([0, 1, 2, 3] * 3))
    learner.watchers = [lambda batch, logits: told.append((batch, logits, learner.model(batch.x).detach()))]
    teach(learner, Strategy(), [experience])
    assert len(told) == 3
    for batch, logits, again in told:
        assert len(batch.raw) == 4
        assert torch.equal(logits, again)
    assert not learner.model._forward_hooks


def test_watchers_are_not_told_of_passes_between_two_steps():
    class Between(Strategy):
        def batches(self, learner, experience):
            for batch in learner.batches(experience.train):
                yield batch
                if learner.step < 3:
                    learner.fit(learner.batches(experience.train), self.loss, optimizer=learner.new_optimizer(1))

        def adjust(self, learner):
            learner(torch.zeros(1, 1, 4, 4)).sum()

    told = []
    learner = opened(batch=4)
    learner.watchers = [lambda batch, logits: told.append(torch.equal(logits, learner.model(batch.x)))]
    teach(learner, Between(), [lesson(images([0, 1, 2, 3] * 2))])
    assert len(told) == learner.step > 2
    assert all(told)


def test_watchers_are_told_of_the_first_forward_pass_of_a_step():
    class Twice(Strategy):
        def loss(self, learner, batch):
            first, _ = learner(batch.x), learner(torch.zeros_like(batch.x))
            return learner.criterion(first, batch.y)

    told = []
    learner = opened(batch=4)
    learner.watchers = [lambda batch, logits: told.append(torch.equal(logits, learner.model(batch.x)))]
    teach(learner, Twice(), [lesson(images([0, 1, 2, 3]))])
    assert told == [True]


def test_watchers_are_not_told_of_steps_that_do_not_ask_the_model():
    class Head(Strategy):
        def loss(self, learner, batch):
            if learner.step % 2:
                return super().loss(learner, batch)
            return learner.criterion(learner.model.head(learner.features(batch.x)), batch.y)

    told = []
    learner = opened(batch=4)
    learner.watchers = [lambda batch, logits: told.append((learner.step, torch.equal(logits, learner.model(batch.x))))]
    teach(learner, Head(), [lesson(images([0, 1, 2, 3] * 4))])
    assert told == [(1, True), (3, True)]


def test_watchers_are_not_told_of_what_is_asked_for_its_price():
    class Dear(Strategy):
        def loss(self, learner, batch):
            if len(batch.x) > 1:
                learner.flops.table.clear()
                learner.price(learner.blank(1), self.loss)
            return super().loss(learner, batch)

    told = []
    learner = opened(batch=4)
    learner.watchers = [lambda batch, logits: told.append(torch.equal(logits, learner.model(batch.x)))]
    teach(learner, Dear(), [lesson(images([0, 1, 2, 3]))])
    assert told == [True]


def test_rates_by_the_beginning_of_a_name():
    learner = opened(lr=0.5)
    learner.model.body[1].bias.requires_grad_(False)
    optimizer = learner.new_optimizer(1, rates={"body.": 0.1, "body.1.w": 0.0})
    found = {group["lr"]: {id(p) for p in group["params"]} for group in optimizer.torch.param_groups}
    assert found == {0.5: {id(p) for p in learner.model.head.parameters()}, 0.0: {id(learner.model.body[1].weight)}}


def test_an_optimiser_of_nothing_steps_nothing():
    learner = opened()
    for parameter in learner.model.parameters():
        parameter.requires_grad_(False)
    assert not learner.new_optimizer(1).parameters
