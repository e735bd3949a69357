"""Replay under masks: asymmetric cross-entropy, and replay with task identities."""

import pytest
import torch
from small import Net, images, lesson, opened, teach, watched, weights

from clbench.strategies.baselines import Naive
from clbench.strategies.er_ace import ERACE
from clbench.strategies.replay import ER
from clbench.transform import ImageTransform

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20
AUGMENTED = ImageTransform(crop=1, flip=True)


def two_lessons():
    return [lesson(images(FIRST)), lesson(images(SECOND), 1)]


def among(logits, y, classes):
    """Mean cross-entropy where only some classes compete, a sample at a time."""
    classes = sorted(classes)
    terms = [torch.logsumexp(row[classes], 0) - row[label] for row, label in zip(logits, y, strict=True)]
    return float(sum(terms) / len(terms))


def test_the_stream_competes_within_its_batch_and_memory_among_all_seen():
    log: list = []
    teach(opened(batch=4, replay_batch=5, classes=6), watched(ERACE, log, memory_size=30), two_lessons(), classes=6)
    seen: set = set()
    for number, (batch, model, loss) in enumerate(log):
        present = set(batch.y.tolist())
        seen |= present
        with torch.no_grad():
            expected = among(model(batch.x), batch.y, present)
            assert len(batch.past) == (number > 0)
            for past in batch.past:
                expected += among(model(past.x), past.y, seen)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert seen == {0, 1, 2, 3}


def test_one_batch_without_a_past_is_naive_with_its_labels_alone():
    learners = [opened(batch=40), opened(batch=40, loss_mask="batch")]
    for learner, strategy in zip(learners, (ERACE(), Naive()), strict=True):
        teach(learner, strategy, two_lessons()[:1])
    assert torch.equal(*map(weights, learners))


def test_absent_classes_get_no_gradient_from_the_stream():
    learner = opened(batch=40, lr=1.0)
    before = learner.model.head.weight.detach().clone()
    teach(learner, ERACE(), two_lessons()[:1])
    moved = (learner.model.head.weight.detach() - before).abs().sum(1) > 0
    assert moved.tolist() == [True, True, False, False]


def test_its_memory_is_that_of_er():
    strategies = [teach(opened(batch=8, transform=AUGMENTED), kind(13), two_lessons()) for kind in (ERACE, ER)]
    assert torch.equal(*(s.memory.x for s in strategies))
    assert torch.equal(*(s.memory.y for s in strategies))


def test_where_experiences_share_all_classes_it_is_two_plain_cross_entropies():
    log: list = []
    lessons = [lesson(images([0, 1, 2, 3] * 10)), lesson(images([0, 1, 2, 3] * 10), 1)]
    teach(opened(batch=40), watched(ERACE, log), lessons)
    batch, model, loss = log[1]
    with torch.no_grad():
        expected = among(model(batch.x), batch.y, range(4)) + among(model(batch.past[0].x), batch.past[0].y, range(4))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_with_task_identities_er_masks_each_replayed_sample_by_its_own_experience():
    """85 classes, 17 experiences: tiny episodic memories as Chaudhry et al. 2019 use them."""
    log: list = []
    lessons = [lesson(images(list(range(5 * n, 5 * n + 5)) * 4), n) for n in range(17)]
    learner = opened(classes=85, model=Net(), batch=10, loss_mask="experience")
    strategy = teach(learner, watched(ER, log, memory_size=85), lessons, classes=85)
    assert (len(strategy.memory), strategy.memory.seen) == (85, 340)
    last, model, loss = log[-1]
    assert len(last.y) == 20
    assert last.y[:10].min() >= 80
    tasks = [range(label // 5 * 5, label // 5 * 5 + 5) for label in last.y.tolist()]
    assert len(set(tasks)) > 3
    with torch.no_grad():
        terms = [among(row[None], y[None], own) for row, y, own in zip(model(last.x), last.y, tasks, strict=True)]
    assert loss.item() == pytest.approx(sum(terms) / 20, rel=1e-5)
    model.zero_grad()
    learner.criterion(model(last.x), last.y).backward()
    rows = model.head.weight.grad.abs().sum(1) > 0
    assert set(rows.nonzero()[:, 0].tolist()) <= {label for own in tasks for label in own}
    assert rows[80:].any()
