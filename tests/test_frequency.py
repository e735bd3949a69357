from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small import images, lesson, numbers, opened, syllabus, teach, weights

from clbench.strategies.baselines import Naive
from clbench.strategies.frequency import FrequencyReplay
from clbench.streams.toy import Toy
from clbench.testing import check_resume
from clbench.transform import ImageTransform

AUGMENTED = ImageTransform(crop=1, flip=True)


def started(classes=8, counts=(), lessons=0, **options):
    strategy = FrequencyReplay(**options)
    strategy.start(opened(classes=classes), syllabus(classes, sizes=[1]))
    strategy.counts[: len(counts)], strategy.lessons = counts, lessons
    return strategy


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("counts", "lessons", "current", "expected"),
    [
        ([0, 0, 0, 0], 0, {0, 1}, []),
        ([2, 3, 4, 5], 50, {0}, [1]),
        ([2, 3, 4, 5], 50, {1, 0}, [2, 3]),
        ([2, 3, 5, 6], 50, {0, 1, 7}, [2]),
        ([6, 5, 4, 4, 3], 60, {0, 7}, [4, 2]),
        ([3, 3, 3, 3], 300, {0, 1}, []),
        ([4, 3, 4, 3], 300, {1, 5}, [0, 2]),
        ([3, 3, 3, 3], 29, {0, 1}, []),
        ([3, 3, 3, 3], 30, {0, 1}, [2, 3]),
    ],
)
def test_which_classes_are_replayed_by_hand(counts, lessons, current, expected):
    assert started(counts=counts, lessons=lessons).chosen(current, RNG) == expected


@pytest.mark.parametrize("seed", range(30))
def test_which_classes_are_replayed_one_candidate_at_a_time(seed):
    rng = np.random.default_rng(seed)
    counts, lessons = rng.integers(0, 12, 20), int(rng.integers(60, 200))
    current = {*rng.choice(20, 3, replace=False).tolist()}
    found: list = []
    for _, label in sorted((int(count), label) for label, count in enumerate(counts)):
        if label in current or counts[label] < 3:
            continue
        if counts[label] / lessons > 0.05:
            break
        if counts[label] / lessons > 0.02 and len(found) < 3:
            found.append(label)
    strategy = started(20, counts, lessons, low=0.02, high=0.05)
    assert strategy.chosen(current, rng) == found


def test_random_replay_takes_any_class_seen_as_often_as_its_budget_says():
    strategy = started(counts=[1, 0, 9, 2, 0, 1, 0, 1], lessons=9, select="random", budget=0.25)
    rng, times = np.random.default_rng(0), np.zeros(8)
    sizes = np.zeros(3)
    for _ in range(4000):
        found = strategy.chosen({0, 4}, rng)
        assert len(set(found)) == len(found)
        times[found] += 1
        sizes[len(found)] += 1
    assert times[[0, 1, 4, 6]].sum() == 0
    assert sizes / 4000 == pytest.approx([0.75**2, 2 * 0.75 * 0.25, 0.25**2], abs=0.03)
    assert times[[2, 3, 5, 7]] / 4000 == pytest.approx([0.125] * 4, abs=0.03)
    assert len(started(counts=[1, 1], select="random").chosen({0, 4, 5}, rng)) == 1


def returning(count=6, samples=12):
    """Experiences of two classes each, in turns: 0 1, 2 3, 0 1, ...; the last pixel tells a sample's experience."""
    lessons = []
    for n in range(count):
        data = images([2 * (n % 2), 2 * (n % 2) + 1] * samples)
        data.source.x[:, -1, -1] = n
        lessons.append(lesson(data, n))
    return lessons


def noted(log, **options):
    class Noted(FrequencyReplay):
        def learn(self, learner, experience):
            super().learn(learner, experience)
            x, y = self.memory.x[: len(self.memory)], self.memory.y[: len(self.memory)]
            log.append([x[y == label] for label in range(4)])

        def batches(self, learner, experience):
            log.append([])
            for batch in super().batches(learner, experience):
                log[-1].append(batch)
                yield batch

    return Noted(**options)


def test_memory_is_refreshed_by_fewer_samples_each_time():
    log: list = []
    teach(opened(batch=8), noted(log, per_class=8, high=0.0), returning(6))
    after = [[sorted(x[:, -1, -1, 0].tolist()) for x in held] for held in log[1::2]]
    assert [len(held) for held in after[0]] == [8, 8, 0, 0]
    assert after[0][:2] == [[0] * 8] * 2
    # a class taught once before gets 8 // 2 new samples, then 8 // 3
    assert after[2][:2] == [[0] * 4 + [2] * 4] * 2
    assert [[held.count(4), len(held)] for held in after[4][:2]] == [[2, 8]] * 2
    assert after[5][:2] == after[4][:2]


def test_a_twentieth_is_refreshed_at_least():
    log: list = []
    learner, strategy = opened(batch=8), noted(log, per_class=40)
    strategy.start(learner, syllabus(sizes=[80] * 2))
    strategy.counts[:] = 500
    for experience in returning(2, samples=60):
        strategy.refresh(learner, experience)
    assert torch.bincount(strategy.memory.y[: len(strategy.memory)]).tolist() == [2] * 4


def test_all_stored_samples_of_the_classes_chosen_join_the_lesson():
    log: list = []
    learner = opened(batch=8, epochs=2, schedule="cosine")
    strategy = noted(log, per_class=9, least=1, high=1.0)
    teach(learner, strategy, returning(2))
    first, second = [log[0], log[1]], [log[3], log[4]]
    assert [sum(len(b.y) for b in shown) for shown in (*first, *second)] == [24, 24, 42, 42]
    held = log[2]
    for shown in second:
        raw, y = torch.cat([b.raw for b in shown]), torch.cat([b.y for b in shown])
        assert torch.bincount(y).tolist() == [9, 9, 12, 12]
        assert sorted(numbers(raw[y < 2])) == sorted(numbers(torch.cat(held[:2])))
        assert sorted(numbers(raw[y > 1])) == list(range(24))
    assert strategy.counts.tolist() == [2, 2, 1, 1]
    assert learner.step == 2 * 3 + 2 * 6


def test_a_schedule_knows_of_the_steps_that_replay_takes():
    ends: list = []

    class Ended(FrequencyReplay):
        def learn(self, learner, experience):
            super().learn(learner, experience)
            ends.append((learner.optim.done, learner.optim.steps, learner.optim.torch.param_groups[0]["lr"]))

    teach(opened(batch=8, epochs=2, schedule="cosine"), Ended(per_class=9, least=1, high=1.0), returning(2))
    assert ends == [(6, 6, 0.0), (12, 12, 0.0)]


@pytest.mark.parametrize("options", [{"select": "random", "budget": 0.0}, {"high": 0.0}, {"least": 99}])
def test_without_replay_it_is_naive(options):
    learners = [opened(batch=8, epochs=2, transform=AUGMENTED, momentum=0.9) for _ in range(2)]
    for learner, strategy in zip(learners, (FrequencyReplay(**options), Naive()), strict=True):
        teach(learner, strategy, returning())
    assert torch.equal(*map(weights, learners))


@dataclass
class Returning(Toy):
    """The toy's lessons, twice over: each class is taught and comes back."""

    def _members(self, split):
        members = super()._members(split)
        halves = []
        for number in range(2 * len(members)):
            own = members[number % len(members)].copy()
            rows = np.flatnonzero(own)
            own[rows[number // len(members) :: 2]] = False
            halves.append(own)
        return halves


@pytest.mark.parametrize("select", ["frequency", "random"])
def test_it_goes_on_where_it_replays(select):
    strategy = FrequencyReplay(select=select, per_class=10, least=1, high=1.0)
    stream = Returning()
    stream.open(0)
    assert stream.syllabus().shared
    check_resume(strategy, stream=Returning())
