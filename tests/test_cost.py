import os
from dataclasses import dataclass, field

import pytest
import torch
from small import Net, images, lesson, opened, syllabus, teach
from torch import nn

from clbench.metric import Look
from clbench.metrics.cost import Cost, Loss, Timing
from clbench.strategies.baselines import Cumulative
from clbench.strategies.distillation import DER
from clbench.strategies.replay import ER
from clbench.strategy import Strategy
from clbench.stream import Exam


def rows(probe, learner, strategy, step=1):
    paper = Exam("a", images([0, 1]), frozenset({0, 1}), since=0)
    where = Look(step, learner.step, learner, strategy, syllabus(sizes=[40]), [paper], frozenset({0, 1}), 1.5)
    return {row.metric: row.value for row in probe()(where)}


def costs(strategy, learner=None):
    learner = learner or opened(batch=8)
    return rows(Cost, learner, teach(learner, strategy, [lesson(images([0, 1] * 20))]))


def test_what_naive_costs():
    weights, biases = 16 * 8 + 8 * 4, 8 + 4
    assert costs(Strategy()) == {
        "cost/samples": 40,
        "cost/train_flops": 2 * 40 * (3 * weights - 16 * 8),
        "cost/inference_flops": 2 * weights,
        "cost/parameters_trainable": weights + biases,
        "cost/parameters_stored": weights + biases,
        "cost/bytes_kept": 0,
    }


def test_what_is_kept_is_samples_labels_and_logits():
    assert costs(ER(memory_size=30))["cost/bytes_kept"] == 30 * (16 + 8)
    assert costs(ER(memory_size=300))["cost/bytes_kept"] == 40 * (16 + 8)
    assert costs(DER(memory_size=30))["cost/bytes_kept"] == 30 * (16 + 8 + 4 * 4)
    assert costs(Cumulative())["cost/bytes_kept"] == 40 * (16 + 8)


@dataclass
class Around(Strategy):
    """Keeps a teacher, and the model at hand, and holds a strategy that keeps samples."""

    base: Strategy = field(default_factory=lambda: ER(memory_size=30))

    def start(self, learner, syllabus):
        self.base.start(learner, syllabus)
        self.teacher, self.again = nn.Linear(3, 2), learner.model
        self.memory = None

    def learn(self, learner, experience):
        self.base.learn(learner, experience)
        self.memory = self.base.memory


def test_what_a_held_strategy_keeps_counts_once():
    found = costs(Around())
    own = 16 * 8 + 8 + 8 * 4 + 4
    assert found["cost/parameters_stored"] == own + 8
    assert found["cost/bytes_kept"] == 30 * (16 + 8) + 4 * 8


def test_what_is_frozen_is_stored_and_does_not_train():
    learner = opened()
    learner.model.body.requires_grad_(False)
    found = rows(Cost, learner, Strategy())
    assert found["cost/parameters_trainable"] == 8 * 4 + 4
    assert found["cost/parameters_stored"] == 16 * 8 + 8 + 8 * 4 + 4


def test_looking_costs_nothing():
    learner = opened(model=Net(4))
    strategy = teach(learner, Strategy(), [lesson(images([0, 1] * 4))])
    before = learner.flops.total
    assert rows(Cost, learner, strategy) == rows(Cost, learner, strategy)
    assert learner.flops.total == before


def test_times_and_memory_are_told_apart_from_what_repeats():
    learner = opened()
    learner.seconds = 2.5
    for step in (0, 1):
        found = rows(Timing, learner, Strategy(), step)
        assert (found["cost/train_seconds"], found["cost/exam_seconds"]) == (2.5, 1.5)
        assert 1e7 < found["cost/peak_memory"] < 1e12
    assert Cost.repeats
    assert not Timing.repeats


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not forget peaks")
def test_peak_memory_is_of_what_came_since_the_run_began():
    learner = opened()
    before = rows(Timing, learner, Strategy(), 0)["cost/peak_memory"]
    big = torch.ones(32 * 2**20)
    after = rows(Timing, learner, Strategy())["cost/peak_memory"]
    assert after > before + 0.9 * big.nbytes
    del big


def test_the_loss_of_a_pass():
    learner = opened()
    learner.last_loss = 0.25
    assert rows(Loss, learner, Strategy()) == {"train/loss": pytest.approx(0.25)}
    assert Loss.when == ("epoch",)


def test_a_pass_without_a_step_has_no_loss():
    learner, losses = opened(epochs=2), []
    learner.after_epoch = lambda call, epoch: losses.append(rows(Loss, learner, Strategy())["train/loss"])
    data = images([0, 1])
    learner.begin(lesson(data))
    for epoch in learner.passes():
        learner.fit(learner.batches(data) if epoch == 0 else [], Strategy().loss)
    assert losses[0] > 0
    assert losses[1] is None
