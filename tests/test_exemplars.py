"""Exemplars, and the two methods that learn with them: iCaRL and BiC."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from small import Linear, Net, images, lesson, numbers, opened, syllabus, teach, watched, weights

from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.strategies.baselines import Naive
from clbench.strategies.bic import BiC, correction
from clbench.strategies.exemplars import ExemplarReplay
from clbench.strategies.icarl import ICaRL
from clbench.strategies.prototypes import LOWEST
from clbench.strategy import Strategy
from clbench.testing import check_resume
from clbench.transform import ImageTransform

LABELS = [[0, 1] * 20, [2, 3] * 20, [4, 5] * 20]
AUGMENTED = ImageTransform(crop=1, flip=True)


def lessons(count=3):
    """Lessons of two classes each, whose samples tell where they come from by the last pixel."""
    found = []
    for number in range(count):
        data = images(LABELS[number])
        data.source.x[:, -1, -1] = 100 * number
        found.append(lesson(data, number))
    return found


def taught(strategy, count=3, **options):
    learner = opened(**{"classes": 6, "batch": 8, "transform": AUGMENTED, **options})
    return learner, teach(learner, strategy, lessons(count), classes=6)


def marks(x):
    """Which lesson a sample is of."""
    return [value // 100 for value in x[:, -1, -1, 0].tolist()]


def features(learner, data, mirrored=False):
    x = learner.encode(data.gather(torch.arange(len(data)))[0])
    with torch.no_grad():
        found = learner.features(x.flip(3) if mirrored else x).double().numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


# What both share.


def test_each_lesson_is_learned_together_with_all_exemplars():
    log: list = []
    learner, _ = taught(watched(ExemplarReplay, log, memory_size=25), epochs=2)
    assert learner.step == 2 * (5 + 8 + 8)
    passes = [log[a:b] for a, b in [(0, 5), (5, 10), (10, 18), (18, 26), (26, 34), (34, 42)]]
    for shown, own, past in zip(passes, [0, 0, 1, 1, 2, 2], [0, 0, 24, 24, 24, 24], strict=True):
        raw = torch.cat([batch.raw for batch, _, _ in shown])
        of = np.array(marks(raw))
        assert (of == own).sum() == 40
        assert (of < own).sum() == past
        assert sorted(numbers(raw[torch.from_numpy(of == own)])) == list(range(40))


def test_a_schedule_knows_of_the_steps_that_exemplars_take():
    ends: list = []

    class Ended(ExemplarReplay):
        def learn(self, learner, experience):
            super().learn(learner, experience)
            ends.append((learner.optim.done, learner.optim.steps, learner.optim.torch.param_groups[0]["lr"]))

    taught(Ended(memory_size=25), schedule="cosine")
    assert ends == [(5, 5, 0.0), (8, 8, 0.0), (8, 8, 0.0)]


def by_herding(found, count):
    """Positions that algorithm 4 of iCaRL chooses, of features."""
    chosen: list = []
    for number in range(1, count + 1):
        rest = [n for n in range(len(found)) if n not in chosen]
        gaps = [np.linalg.norm(found.mean(0) - found[[*chosen, n]].sum(0) / number) for n in rest]
        chosen.append(rest[int(np.argmin(gaps))])
    return chosen


def test_exemplars_are_herded_and_cut_short():
    kept: list = []

    class Noted(ExemplarReplay):
        def remember(self, learner, data):
            super().remember(learner, data)
            found, expected = features(learner, data), {}
            for label in data.labels.unique().tolist():
                rows = np.flatnonzero(data.labels.numpy() == label)
                expected[label] = [int(rows[n]) for n in by_herding(found[rows], 25 // self.taught)]
            x, y = self.memory.data().gather(torch.arange(len(self.memory)))
            kept.append((expected, {label: numbers(x[y == label]) for label in y.unique().tolist()}))

    taught(Noted(memory_size=25))
    chosen: dict = {}
    for (expected, held), share in zip(kept, [12, 6, 4], strict=True):
        chosen |= expected
        assert held == {label: rows[:share] for label, rows in chosen.items()}


@pytest.mark.parametrize("kind", [ExemplarReplay, ICaRL])
def test_the_teacher_is_the_network_of_the_last_experience(kind):
    log: list = []
    learner, strategy = taught(watched(kind, log, memory_size=25))
    assert all(not batch.kept for batch, _, _ in log[:5])
    ends = {5: log[5][1], 13: log[13][1]}  # the network as it was before the first step of a lesson
    for start, stop in [(5, 13), (13, 21)]:
        for batch, _, _ in log[start:stop]:
            with torch.no_grad():
                assert torch.equal(batch.kept["old"], ends[start](batch.x))
    for p, q in zip(learner.model.parameters(), strategy.teacher.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not q.requires_grad


@pytest.mark.parametrize("kind", [ICaRL, BiC])
def test_shared_classes_are_refused(kind):
    with pytest.raises(
        Mistake, match=rf"^{kind.__name__.lower()} tells old classes from new, and .*: take er or derpp\.$"
    ):
        kind().start(opened(), syllabus(shared=True))


@pytest.mark.parametrize(("kind", "size"), [(ICaRL, 4), (BiC, 8)])
def test_a_memory_too_small_for_its_classes_is_refused(kind, size):
    with pytest.raises(Mistake, match=rf"strategy\.memory_size={size - 1} is too small for 4 classes"):
        kind(memory_size=size - 1).start(opened(), syllabus())
    kind(memory_size=size).start(opened(), syllabus())


@pytest.mark.parametrize("kind", [ICaRL, BiC])
def test_teachers_and_features_are_counted(kind):
    learner, _ = taught(kind(memory_size=24), count=2, model=Net(hidden=0))
    product = 2 * 16 * 6  # of one sample and the weights, 16 x 6; features are pixels, and cost nothing
    replayed, apart = (24, 0) if kind is ICaRL else (22, 2)
    trained = (40 - apart) + (40 - apart + replayed)
    taught_by = 40 - apart + replayed
    corrected = 4 if kind is BiC else 0
    assert learner.flops.total == product * (2 * trained + taught_by + corrected)


# iCaRL.


@pytest.mark.parametrize("outputs", ["all", "seen"])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_icarl_s_loss_by_hand(outputs, decay):
    log: list = []
    taught(watched(ICaRL, log, memory_size=25, outputs=outputs, weight_decay=decay))
    for number, (batch, model, loss) in enumerate(log):
        new = 2 * ((number >= 5) + (number >= 13))
        columns = 6 if outputs == "all" else new + 2
        with torch.no_grad():
            logits = model(batch.x).double().numpy()
            squares = sum(float(p.double().square().sum()) for p in model.parameters())
        total = 0.0
        for row, label in enumerate(batch.y.tolist()):
            for c in range(columns):
                p = 1 / (1 + math.exp(-logits[row, c]))
                t = 1 / (1 + math.exp(-float(batch.kept["old"][row, c]))) if c < new else float(c == label)
                total -= t * math.log(p) + (1 - t) * math.log(1 - p)
        assert loss.item() == pytest.approx(total / (len(batch.y) * columns) + decay * squares, rel=1e-4)


def test_icarl_on_one_lesson_is_plain_training_by_sigmoids():
    class Sigmoids(Strategy):
        def loss(self, learner, batch):
            target = F.one_hot(batch.y, 6).float()
            return F.binary_cross_entropy_with_logits(learner(batch.x), target, reduction="none").mean(0).mean()

    trained = [taught(s, count=1, epochs=3, momentum=0.9)[0] for s in (ICaRL(weight_decay=0.0), Sigmoids())]
    assert torch.equal(*map(weights, trained))


@pytest.mark.parametrize("mirror", [True, False])
def test_icarl_answers_by_the_nearest_mean_of_exemplars(mirror):
    learner, strategy = taught(ICaRL(memory_size=25, mirror=mirror), count=2)
    kept = strategy.memory.data()
    found, other = features(learner, kept), features(learner, kept, mirrored=True)
    assert np.abs(found - other).max() > 0.01
    x = learner.encode(images([0] * 9).source.x)
    with torch.no_grad():
        answered, z = strategy.predict(learner, x), F.normalize(learner.features(x)).double().numpy()
    for c in range(4):
        own = kept.labels.numpy() == c
        mean = found[own].mean(0) + (other[own].mean(0) if mirror else 0)
        mean /= np.linalg.norm(mean)
        distance = ((z - mean) ** 2).sum(1)
        assert answered[:, c].numpy() == pytest.approx(-distance, abs=1e-5)
    assert (answered[:, 4:] == LOWEST).all()


def test_icarl_answers_by_its_logits_until_it_has_learned():
    learner, strategy = opened(), ICaRL()
    strategy.start(learner, syllabus())
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(strategy.predict(learner, x), learner(x))


def test_icarl_takes_no_mask():
    with pytest.raises(Mistake, match=r"learner\.loss_mask=seen would change nothing"):
        ICaRL().start(opened(loss_mask="seen"), syllabus())


# BiC.


def test_the_correction_of_a_bias_is_what_a_general_solver_finds():
    rng = np.random.default_rng(0)
    logits, y, new = rng.normal(size=(60, 5)), rng.integers(0, 5, 60), np.array([0, 0, 0, 1, 1], bool)
    logits[np.arange(60), y] += 1
    logits[:, new] = 2 * logits[:, new] + 3

    def objective(both):
        found = np.where(new, both[0] * logits + both[1], logits)
        found = found - found.max(1, keepdims=True)
        chances = found[np.arange(60), y] - np.log(np.exp(found).sum(1))
        return -chances.mean() + both[1] ** 2 / 20

    expected = minimize(objective, [1.0, 0.0], tol=1e-12).x
    found = correction(torch.from_numpy(logits).float(), torch.from_numpy(y), torch.from_numpy(new))
    assert [float(value) for value in found] == pytest.approx(expected.tolist(), abs=1e-4)
    assert 0.2 < found[0] < 0.7
    assert found[1] < -0.3


def test_no_bias_is_left_alone():
    logits = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(50, 1)
    y = torch.tensor([0, 1]).repeat(50)
    y[:12] = 1 - y[:12]  # as often wrong as two classes of these logits say: e^2 / (1 + e^2) = 0.88
    alpha, beta = correction(logits, y, torch.tensor([False, True]))
    assert float(alpha) == pytest.approx(1, abs=0.02)
    assert float(beta) == pytest.approx(0, abs=1e-5)


def test_bic_never_trains_on_what_it_holds_out_in_balance():
    log: list = []
    learner = opened(classes=6, batch=8, epochs=2)
    strategy = watched(BiC, log, memory_size=60, validation=0.2)
    strategy.start(learner, syllabus(6, sizes=[40] * 3))
    trained: set = set()
    for experience, kept, apart in zip(lessons(), [14, 12, 8], [6, 3, 2], strict=True):
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
        for batch, _, _ in log:
            trained |= set(zip(marks(batch.raw), numbers(batch.raw), strict=True))
        x, y = strategy.held.data().gather(torch.arange(len(strategy.held)))
        held = set(zip(marks(x), numbers(x), strict=True))
        assert not held & trained
        classes = 2 * experience.index + 2
        assert torch.bincount(y).tolist() == [apart] * classes
        assert torch.bincount(strategy.memory.data().labels).tolist() == [kept] * classes
    assert len(trained) == 2 * (14 + 14 + 17)
    assert len(strategy.memory) + len(strategy.held) == 60


def test_bic_needs_two_samples_of_a_class():
    with pytest.raises(Mistake, match="no class of experience 0 has two to choose from"):
        teach(opened(classes=6), BiC(memory_size=60), [lesson(images([0, 1]), 0)], classes=6)


def test_bic_corrects_by_samples_of_old_and_new_classes_alike():
    given: list = []

    class Noted(BiC):
        def correct(self, learner, data):
            super().correct(learner, data)
            with torch.no_grad():
                logits = learner(learner.encode(data.gather(torch.arange(len(data)))[0]))
            given.append((data.labels, logits, self.new.clone()))

    learner, strategy = taught(Noted(memory_size=60, validation=0.2), epochs=5)
    assert [torch.bincount(labels).tolist() for labels, _, _ in given] == [[6] * 4, [3] * 6]
    labels, logits, new = given[-1]
    assert new.tolist() == [False] * 4 + [True] * 2
    for value, expected in zip((strategy.alpha, strategy.beta), correction(logits, labels, new), strict=True):
        assert value.item() == pytest.approx(expected.item(), abs=1e-4)
    x = torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        plain, answered = learner(x), strategy.predict(learner, x)
    assert torch.equal(plain[:, :4], answered[:, :4])
    assert torch.allclose(strategy.alpha * plain[:, 4:] + strategy.beta, answered[:, 4:])


def soft(logits, temperature=1.0):
    powers = np.exp(logits / temperature)
    return powers / powers.sum(1, keepdims=True)


def test_bic_s_loss_by_hand():
    log: list = []
    corrections: list = [(1.0, 0.0)]

    class Noted(BiC):
        def correct(self, learner, data):
            super().correct(learner, data)
            corrections.append((float(self.alpha), float(self.beta)))

    taught(watched(Noted, log, memory_size=60, validation=0.2, temperature=3.0), epochs=1)
    starts = [0, 4, 4 + -(-(28 + 28) // 8)]
    for number, (batch, model, loss) in enumerate(log):
        lesson_ = sum(number >= start for start in starts) - 1
        old, seen = 2 * lesson_, 2 * lesson_ + 2
        with torch.no_grad():
            logits = model(batch.x).double().numpy()
        expected = -np.log(soft(logits[:, :seen])[np.arange(len(batch.y)), batch.y.numpy()]).mean()
        if lesson_:
            with torch.no_grad():
                said = log[starts[lesson_]][1](batch.x).double().numpy()
            alpha, beta = corrections[lesson_ - 1]
            newest = slice(old - 2, old)
            said[:, newest] = alpha * said[:, newest] + beta
            distance = -(soft(said[:, :old], 3.0) * np.log(soft(logits[:, :old], 3.0))).sum(1).mean()
            expected = 2 / seen * expected + old / seen * distance
        assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert abs(corrections[1][0] - 1) > 1e-3


def test_a_class_of_two_samples_is_not_held_out_whole():
    _, strategy = taught(BiC(memory_size=1000), count=1)
    apart = strategy.apart(images([0, 0, 1, 1, 1, 2]), 5, opened())
    assert torch.bincount(images([0, 0, 1, 1, 1, 2]).labels[apart], minlength=3).tolist() == [1, 1, 0]


def test_bic_undoes_a_bias_that_it_is_shown():
    """New logits are 5 too high: the held-out samples show it, and old classes are found again."""
    learner = opened(classes=2, side=2, model=Linear(torch.eye(4)[:2]))
    strategy = BiC(memory_size=8)
    strategy.start(learner, syllabus(2, side=2))
    strategy.seen, strategy.new = torch.tensor([True, True]), torch.tensor([False, True])
    x = torch.zeros(40, 2, 2, 1, dtype=torch.uint8)
    x[:20, 0, 0], x[:, 0, 1] = 255, 128
    x[20:, 0, 1] = 255
    data = Data(Source(x, torch.tensor([0] * 20 + [1] * 20)), torch.arange(40))
    learner.model.head.weight.data[1] *= 6
    with torch.no_grad():
        assert learner(learner.encode(x)).argmax(1).tolist() == [1] * 40
        strategy.correct(learner, data)
        assert strategy.predict(learner, learner.encode(x)).argmax(1).tolist() == data.labels.tolist()


def test_bic_on_one_lesson_is_plain_training_among_its_classes_without_what_it_holds_out():
    class Part(Naive):
        def learn(self, learner, experience):
            other = BiC(memory_size=60)
            rows = other.apart(experience.train, other.apiece(2), learner)
            rest = np.setdiff1d(np.arange(len(experience.train)), rows)
            learner.optim.begin(learner.steps(len(rest)))
            super().learn(learner, lesson(experience.train.subset(torch.from_numpy(rest))))

    learners = [
        taught(BiC(memory_size=60), count=1, epochs=2, schedule="cosine")[0],
        taught(Part(), count=1, epochs=2, schedule="cosine", loss_mask="seen")[0],
    ]
    assert torch.equal(*map(weights, learners))


@pytest.mark.parametrize("make", [partial(ICaRL, outputs="seen", mirror=False), partial(BiC, validation=0.3)])
def test_they_go_on_under_options(make):
    check_resume(make(memory_size=60))
