import copy
import math
from functools import cache
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import Net, images, lesson, numbers, opened, syllabus, teach, weights

from clbench import catalogue
from clbench.batch import Batch
from clbench.memory import GreedyBalanced, Reservoir
from clbench.metric import Look
from clbench.metrics.exams import Exams
from clbench.strategies.baselines import Cumulative, Joint, Naive
from clbench.strategies.distillation import DER, DERPP
from clbench.strategies.replay import ER, GDumb
from clbench.stream import Syllabus
from clbench.streams.toy import Toy
from clbench.testing import check_resume
from clbench.transform import ImageTransform

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20
AUGMENTED = ImageTransform(crop=1, flip=True)


def two_lessons():
    """Two lessons whose samples tell where they come from: those of the second have a bright last pixel."""
    first, second = images(FIRST), images(SECOND)
    first.source.x[:, -1, -1], second.source.x[:, -1, -1] = 0, 255
    return [lesson(first), lesson(second, 1)]


def watched(kind, log, **options):
    """The strategy, with every batch noted before its step: (batch, a copy of the model, the loss)."""

    class Watched(kind):
        def loss(self, learner, batch):
            found = super().loss(learner, batch)
            log.append((batch, copy.deepcopy(learner.model), found[0] if isinstance(found, tuple) else found))
            return found

    return Watched(**options)


def same_run(one, other, epochs=2, lessons=two_lessons, **options):
    """Whether two strategies end with the same bits."""
    learners = [opened(epochs=epochs, batch=8, transform=AUGMENTED, momentum=0.9, **options) for _ in range(2)]
    for learner, strategy in zip(learners, (one, other), strict=True):
        teach(learner, strategy, lessons())
    return torch.equal(*map(weights, learners))


# What equals what.


def test_two_runs_are_told_apart_by_what_they_learn():
    assert same_run(Naive(), Naive())
    assert not same_run(Naive(), ER(memory_size=20))
    assert not same_run(ER(memory_size=20), ER(memory_size=19))
    assert not same_run(DER(memory_size=20, alpha=0.1), DER(memory_size=20, alpha=0.2))


def test_der_without_its_term_is_naive():
    assert same_run(DER(memory_size=20, alpha=0), Naive())


def test_derpp_without_its_term_is_der_that_draws_twice():
    class Twice(DER):
        draws = 2

    assert same_run(DERPP(memory_size=20, alpha=0.3, beta=0), Twice(memory_size=20, alpha=0.3))
    assert not same_run(DERPP(memory_size=20, alpha=0.3, beta=0.1), Twice(memory_size=20, alpha=0.3))


def test_derpp_without_either_term_is_naive():
    assert same_run(DERPP(memory_size=20, alpha=0, beta=0), Naive())


@pytest.mark.parametrize("strategy", [ER(), DER(), DERPP(), Cumulative()])
def test_the_first_step_is_that_of_naive(strategy):
    learners = [opened(batch=40) for _ in range(2)]
    teach(learners[0], strategy, two_lessons()[:1])
    teach(learners[1], Naive(), two_lessons()[:1])
    assert learners[0].step == learners[1].step == 1
    assert torch.equal(*map(weights, learners))


@pytest.mark.parametrize("strategy", [Joint(), Cumulative()])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_with_one_lesson_there_is_nothing_to_join(strategy, schedule):
    assert same_run(strategy, Naive(), lessons=lambda: two_lessons()[:1], schedule=schedule, epochs=3)


def one_source():
    """Two lessons in one data set, and their union."""
    both = images(FIRST + SECOND)
    parts = [both.subset(torch.arange(40)), both.subset(torch.arange(40, 80))]
    return [lesson(part, n) for n, part in enumerate(parts)], lesson(both)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_joint_is_naive_on_all_data_at_once(schedule):
    apart, together = one_source()
    learners = [opened(epochs=3, batch=8, schedule=schedule, transform=AUGMENTED) for _ in range(2)]
    teach(learners[0], Joint(), apart)
    teach(learners[1], Naive(), [together])
    assert learners[0].step == 30
    assert torch.equal(*map(weights, learners))


def test_cumulative_trains_on_the_union_from_the_weights_at_hand():
    apart, _ = one_source()
    log: list = []
    learner = opened(epochs=2, batch=8)
    teach(learner, watched(Cumulative, log), apart)
    assert learner.step == 2 * 5 + 2 * 10
    shown = [numbers(batch.raw) for batch, _, _ in log]
    assert [sorted(chain.from_iterable(shown[a:b])) for a, b in [(0, 5), (5, 10)]] == [list(range(40))] * 2
    assert [sorted(chain.from_iterable(shown[a:b])) for a, b in [(10, 20), (20, 30)]] == [list(range(80))] * 2
    after = opened(epochs=2, batch=8)
    teach(after, Naive(), apart[:1])
    assert torch.equal(torch.cat([p.detach().flatten() for p in log[10][1].parameters()]), weights(after))


# Replay.


def test_er_trains_on_one_mean_over_stream_and_memory():
    log: list = []
    learner = opened(batch=8, replay_batch=5)
    teach(learner, watched(ER, log, memory_size=30), two_lessons())
    sizes = [len(batch.y) for batch, _, _ in log]
    assert sizes == [8] + [13] * 9
    for batch, model, loss in log:
        with torch.no_grad():
            logits, y = model(batch.x), batch.y
        terms = [float(torch.logsumexp(row, 0) - row[label]) for row, label in zip(logits, y, strict=True)]
        assert loss.item() == pytest.approx(sum(terms) / len(y), rel=1e-5)


def test_er_replays_what_came_before_and_nothing_twice():
    log: list = []
    teach(opened(batch=8), watched(ER, log, memory_size=30), two_lessons()[:1])
    offered: set = set()
    for batch, _, _ in log:
        shown = numbers(batch.raw)
        stream, past = shown[:8], shown[8:]
        assert len(set(past)) == len(past)
        assert set(past) <= offered
        assert not set(stream) & offered
        offered |= set(stream)


def reservoir(size, batches, rng, draws):
    """What algorithm R keeps of batches of numbers, offered after `draws` samples were drawn from it each time."""
    slots: list = []
    seen = 0
    for batch in batches:
        for _ in range(draws if slots else 0):
            rng.choice(len(slots), min(len(batch), len(slots)), replace=False)
            AUGMENTED(torch.zeros(min(len(batch), len(slots)), 4, 4, 1, dtype=torch.uint8), rng)
        for number, slot in zip(batch, rng.integers(0, seen + 1 + np.arange(len(batch))), strict=True):
            if seen < size:
                slots.append(number)
            elif slot < size:
                slots[slot] = number
            seen += 1
    return slots


@pytest.mark.parametrize(("kind", "draws"), [(ER, 1), (DER, 1), (DERPP, 2)])
def test_memory_is_a_reservoir_of_the_stream(kind, draws):
    log: list = []
    learner = opened(batch=8, transform=AUGMENTED)
    strategy = teach(learner, watched(kind, log, memory_size=13), two_lessons()[:1])
    batches = [numbers(batch.raw)[:8] for batch, _, _ in log]
    expected = reservoir(13, batches, opened().rng("memory"), draws)
    assert numbers(strategy.memory.x) == expected
    assert strategy.memory.seen == 40
    assert strategy.memory.y.tolist() == [FIRST[n] for n in expected]


def test_memory_keeps_samples_as_they_are_stored():
    lessons = two_lessons()
    strategy = teach(opened(batch=8, transform=AUGMENTED), ER(memory_size=13), lessons)
    for x, y in zip(strategy.memory.x, strategy.memory.y, strict=True):
        source = lessons[1 if x[-1, -1] else 0].train.source
        number = int(x[0, 0])
        assert torch.equal(x, source.x[number])
        assert y == source.y[number]


def test_er_replays_at_every_so_many_steps_of_the_stream():
    log: list = []
    strategy = teach(opened(batch=8, epochs=2), watched(ER, log, memory_size=30, every=4), two_lessons())
    assert [len(batch.y) for batch, _, _ in log] == [8, 8, 8, 16] * 5
    assert strategy.memory.seen == 160
    assert same_run(ER(memory_size=20, every=21), Naive())
    assert not same_run(ER(memory_size=20, every=20), Naive())


def test_er_at_every_step_is_plain_er():
    class Plain(ER):
        def batches(self, learner, experience):
            rng = learner.rng("memory")
            for batch in learner.batches(experience.train):
                yield batch.joined(learner.recall(self.memory, rng))
                self.memory.add(batch.raw, batch.y, rng)

    assert same_run(ER(memory_size=20, every=1), Plain(memory_size=20))
    assert not same_run(ER(memory_size=20, every=2), Plain(memory_size=20))


def test_er_goes_on_counting_after_an_interruption():
    check_resume(ER(memory_size=60, every=3))


# Dark experience replay.


@pytest.mark.parametrize("kind", [DER, DERPP])
def test_der_keeps_the_very_logits_that_were_trained_on(kind):
    log: list = []
    learner = opened(batch=8, transform=AUGMENTED, lr=0.5)
    strategy = teach(learner, watched(kind, log, memory_size=200), two_lessons()[:1])
    assert len(strategy.memory) == 40
    slot = 0
    for batch, model, _ in log:
        with torch.no_grad():
            before, plain = model(batch.x), model(learner.encode(batch.raw))
        kept = strategy.memory.kept["logits"][slot : slot + 8]
        assert torch.equal(kept, before)
        assert not torch.equal(kept, plain)
        slot += 8
    assert not strategy.memory.kept["logits"].requires_grad


@pytest.mark.parametrize(("kind", "beta"), [(DER, 0.0), (DERPP, 0.7)])
def test_the_losses_of_der(kind, beta):
    log: list = []
    options = {"beta": beta} if kind is DERPP else {}
    learner = opened(batch=8, transform=AUGMENTED, replay_batch=6)
    teach(learner, watched(kind, log, memory_size=30, alpha=0.4, **options), two_lessons())
    assert not log[0][0].past
    for batch, model, loss in log[1:]:
        assert len(batch.y) == 8
        assert [len(p.y) for p in batch.past] == [6] * (2 if beta else 1)
        with torch.no_grad():
            expected = F.cross_entropy(model(batch.x), batch.y)
            distance = (model(batch.past[0].x) - batch.past[0].kept["logits"]) ** 2
            expected += 0.4 * distance.sum() / (6 * 4)
            if beta:
                expected += beta * F.cross_entropy(model(batch.past[1].x), batch.past[1].y)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_der_takes_no_gradient_through_the_logits_it_kept():
    learner, strategy = opened(batch=4), DER(alpha=1.0)
    learner.begin(lesson(images([0, 1] * 2)))
    strategy.start(learner, syllabus())
    x, z = torch.randn(4, 1, 4, 4), torch.randn(4, 4)
    past = Batch(x, torch.zeros(4, dtype=torch.int64), x, kept={"logits": z})
    batch = Batch(x, torch.tensor([0, 1, 2, 3]), x, past=(past,))
    loss, logits = strategy.loss(learner, batch)
    assert loss.item() == pytest.approx((F.cross_entropy(logits, batch.y) + F.mse_loss(logits, z)).item())
    loss.backward()
    assert z.grad is None


def test_derpp_draws_twice_independently():
    log: list = []
    teach(opened(batch=8, replay_batch=6), watched(DERPP, log, memory_size=40), two_lessons())
    draws = [[set(numbers(p.raw)) for p in batch.past] for batch, _, _ in log[-4:]]
    assert all(a != b for a, b in draws)
    assert any(a & b for a, b in draws)


# GDumb.


@pytest.mark.parametrize("sampler", ["greedy", "reservoir"])
def test_gdumb_trains_at_the_end_on_memory_alone(sampler):
    log: list = []
    learner = opened(batch=7)
    start = weights(learner)
    strategy = watched(GDumb, log, memory_size=12, epochs=3, batch=5, cutmix=0.0, sampler=sampler)
    lessons = two_lessons()
    teach_first = teach(learner, strategy, [*lessons, lesson(images([0] * 8), 2)])
    assert isinstance(teach_first.memory, {"greedy": GreedyBalanced, "reservoir": Reservoir}[sampler])
    assert strategy.memory.seen == 88
    assert [len(batch.y) for batch, _, _ in log] == [5, 5, 2] * 3
    kept = sorted(x.tolist() for x in strategy.memory.x.flatten(1))
    for epoch in range(3):
        shown = torch.cat([batch.raw for batch, _, _ in log[3 * epoch : 3 * epoch + 3]])
        assert sorted(x.tolist() for x in shown.flatten(1)) == kept
    assert torch.equal(torch.cat([p.detach().flatten() for p in log[0][1].parameters()]), start)
    if sampler == "greedy":
        assert np.bincount(strategy.memory.y.numpy()).tolist() == [3, 3, 3, 3]


def test_gdumb_follows_its_schedule():
    rates: list = []

    class Watched(GDumb):
        def loss(self, learner, batch):
            rates.append(learner.optim.torch.param_groups[0]["lr"])
            return super().loss(learner, batch)

    teach(opened(), Watched(memory_size=10, epochs=8, batch=4, max_lr=0.05, min_lr=0.001), two_lessons())
    half, quarter = 0.0255, math.sqrt(0.5) * 0.0245
    closed = [0.005, 0.05, 0.05, half, 0.05, half + quarter, half, half - quarter]
    assert rates == pytest.approx([rate for rate in closed for _ in range(3)])


def test_gdumb_follows_the_warm_restarts_of_torch():
    strategy, optimizer = GDumb(), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 1, 2, eta_min=0.0005)
    optimizer.step()
    for epoch in range(1, 257):
        assert strategy.rate(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        scheduler.step()


def test_what_is_no_image_is_not_mixed():
    strategy = GDumb(cutmix=1.0)
    strategy.start(opened(), Syllabus(1, 4, (16,), (8,), shared=False))
    assert not strategy.mixes


def test_cumulative_training_goes_on_with_an_optimiser_that_is_kept():
    learner, strategy, data = opened(batch=8, keep_optimizer=True), Cumulative(), images([0, 1] * 8)
    strategy.start(learner, syllabus(sizes=[8, 8]))
    for index, rows in enumerate(torch.arange(16).split(8)):
        learner.begin(experience := lesson(data.subset(rows), index))
        before = learner.optim
        strategy.learn(learner, experience)
        assert learner.optim is before
        assert learner.optim.done == [1, 3][index]


def test_cutmix_mixes_areas_and_labels_in_the_same_share():
    height, width, count = 8, 12, 6
    x = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 2, height, width)
    labels = torch.arange(count) + 10
    batch, rng, shares = Batch(x, labels, x), np.random.default_rng(0), []
    for _ in range(300):
        mixed = GDumb().mixed(batch, rng)
        share, other = float(mixed.kept["share"]), mixed.kept["other"] - 10
        assert sorted(other.tolist()) == list(range(count))
        for n in range(count):
            own = (mixed.x[n] == n).all(0)
            assert (mixed.x[n][:, ~own] == other[n]).all()
            if other[n] != n:
                assert float(own.float().mean()) == pytest.approx(share)
                rows, columns = (~own).any(1), (~own).any(0)
                assert torch.equal(~own, rows[:, None] & columns[None, :])
        assert mixed.y is batch.y
        shares.append(share)
    assert torch.equal(batch.x, x)
    assert 0.6 < np.mean(shares) < 0.85
    assert min(shares) < 0.5
    assert max(shares) == 1


class Patch:
    """A generator whose patch is known."""

    def __init__(self, remains, row, column):
        self.remains, self.places = remains, [row, column]

    def beta(self, a, b):
        assert a == b == 1.0
        return self.remains

    def integers(self, high):
        return self.places.pop(0)

    def permutation(self, count):
        return np.roll(np.arange(count), 1)


@pytest.mark.parametrize(
    ("remains", "row", "column", "rows", "columns"),
    [
        (0.75, 4, 6, range(2, 6), range(3, 9)),
        (0.75, 0, 11, range(2), range(8, 12)),
        (0.0, 4, 6, range(8), range(12)),
        (1.0, 4, 6, (), ()),
    ],
)
def test_a_patch_by_hand(remains, row, column, rows, columns):
    x = torch.arange(3).float().view(-1, 1, 1, 1).expand(3, 1, 8, 12)
    mixed = GDumb().mixed(Batch(x, torch.arange(3), x), Patch(remains, row, column))
    expected = x.clone()
    for r in rows:
        for c in columns:
            expected[:, 0, r, c] = torch.tensor([2.0, 0.0, 1.0])
    assert torch.equal(mixed.x, expected)
    assert mixed.kept["other"].tolist() == [2, 0, 1]
    assert float(mixed.kept["share"]) == pytest.approx(1 - len(rows) * len(columns) / 96)


def test_the_loss_of_a_mixed_batch():
    learner, x, y = opened(), torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    learner.begin(lesson(images([0, 1, 2, 3])))
    kept = {"other": torch.tensor([1, 0, 0, 0]), "share": torch.tensor(0.3)}
    loss = GDumb().loss(learner, Batch(x, y, x, kept=kept))
    logits = learner(x)
    expected = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, kept["other"])
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("cutmix", "low", "high"), [(0.0, 0, 0), (1.0, 160, 160), (0.5, 60, 100)])
def test_cutmix_takes_its_share_of_batches(cutmix, low, high):
    log: list = []
    teach(opened(), watched(GDumb, log, memory_size=40, epochs=32, batch=8, cutmix=cutmix), two_lessons())
    assert len(log) == 160
    assert low <= sum(bool(batch.kept) for batch, _, _ in log) <= high


# What they are for.


@cache
def final_accuracy(name, seed, lr=0.1, **options):
    stream, strategy = Toy(noise=120), catalogue.resolve("strategy", name)(**options)
    stream.open(seed)
    learner = opened(
        classes=6, side=6, model=Net(32), transform=stream.transform(), seed=seed, epochs=5, batch=16, lr=lr
    )
    strategy.start(learner, stream.syllabus())
    for experience in stream:
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
    look = Look(3, learner.step, learner, strategy, stream.syllabus(), stream.exams(), frozenset(range(6)))
    return np.mean([row.value for row in Exams()(look) if row.metric == "class/accuracy"])


TUNED = {"rate": 0.3, "share": 0.5}


METHODS = ["er", "er_ace", "agem", "icarl", "bic", "der", "derpp", "cumulative", "joint", "gdumb", "fpf", "kfpf"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_every_method_forgets_less_than_naive(name, seed):
    options = {"memory_size": 60} if name not in ("cumulative", "joint") else {}
    options |= {"gdumb": {"epochs": 31}, "der": {"alpha": 1.0}, "fpf": TUNED, "kfpf": TUNED}.get(name, {})
    rate = 1.0 if name == "icarl" else 0.1  # the mean over labels makes its gradients small
    assert final_accuracy(name, seed, rate, **options) > final_accuracy("naive", seed) + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_naive_forgets(seed):
    assert final_accuracy("naive", seed) < 0.6
