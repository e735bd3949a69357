import shlex

import pytest
import torch
from small import Net, images, lesson, opened, syllabus

from clbench.batch import Batch
from clbench.config import plans
from clbench.metric import Look, Row
from clbench.metrics.online import NOTHING, Online
from clbench.metrics.summary import online
from clbench.recorder import Recorder
from clbench.result import read_rows
from clbench.run import Run
from clbench.strategies.baselines import Joint
from clbench.strategies.icarl import ICaRL
from clbench.strategies.lwf import LwF
from clbench.strategies.replay import ER
from clbench.strategy import Strategy


class Watched:
    """A run in which only the online probe looks."""

    def __init__(self, strategy=None, **options):
        self.learner, self.probe = opened(model=Net(8), batch=4, **options), Online()
        self.strategy = strategy or Strategy()
        self.learner.watchers = [self.note, self.probe.watch]
        self.learner.after_epoch = lambda call, epoch: self.look("epoch", self.step)
        self.step, self.steps = 0, []
        self.look("every", 0)
        self.strategy.start(self.learner, syllabus(sizes=[8, 8]))

    def note(self, batch, logits):
        size = len(batch.raw)
        self.steps.append(
            (batch.y[:size].tolist(), logits[:size].clone(), batch.index is None and len(batch.x) == size)
        )

    def look(self, when, step):
        look = Look(
            step, self.learner.step, self.learner, self.strategy, syllabus(sizes=[8, 8]), [], frozenset(), when=when
        )
        return list(self.probe(look))

    def learn(self, experience):
        self.learner.begin(experience)
        self.probe.begin(experience)
        self.strategy.learn(self.learner, experience)
        self.learner.end()

    def teach(self, labels):
        self.steps = []
        self.learn(lesson(images(labels), self.step))
        self.step += 1
        (row,) = self.look("every", self.step)
        return row


def right(steps, shown):
    """Answers that were right before the step, by hand; `shown`: the labels so far."""
    found = []
    for labels, logits, _ in steps:
        shown |= set(labels)
        open_labels = sorted(shown)
        found += [open_labels[int(row[open_labels].argmax())] == y for row, y in zip(logits, labels, strict=True)]
    return found


def test_each_batch_is_answered_before_it_is_learned():
    run, shown = Watched(lr=0.5), set()
    for labels in ([0, 1] * 8, [2, 3] * 8):
        row = run.teach(labels)
        found = right(run.steps, shown)
        assert (row.metric, row.subject, row.step) == ("online/accuracy", "", run.step)
        assert (row.value, row.n) == (pytest.approx(sum(found) / 16), 16)


def test_only_the_first_pass_counts():
    run = Watched(epochs=3)
    row = run.teach([0, 1] * 8)
    assert len(run.steps) == 12
    assert (row.value, row.n) == (pytest.approx(sum(right(run.steps[:4], set())) / 16), 16)
    assert run.teach([2, 3] * 8).n == 16


def test_what_memory_adds_does_not_count():
    run, shown = Watched(ER(memory_size=50), lr=0.5), set()
    for labels in ([0, 1] * 8, [2, 3] * 8):
        row = run.teach(labels)
        found = right(run.steps, shown)
        assert (row.value, row.n) == (pytest.approx(sum(found) / 16), 16)
    x = torch.zeros(3, 1, 4, 4)
    probe = Online()
    probe.watch(Batch(x, torch.zeros(3, dtype=torch.int64), x), torch.zeros(3, 4))
    assert probe.asked == []


def test_exemplars_that_are_joined_to_the_lesson_do_not_count():
    run = Watched(ICaRL(memory_size=8), lr=0.5)
    run.teach([0, 1] * 8)
    row = run.teach([2, 3] * 8)
    assert sum(len(y) for y, *_ in run.steps) == 24
    assert row.n == 16


@pytest.mark.parametrize("strategy", [LwF(warm_up=1), LwF(warm_up=0)])
def test_the_first_pass_is_the_first_on_the_whole_network(strategy):
    run = Watched(strategy, epochs=3)
    run.teach([0, 1] * 8)
    row, shown = run.teach([2, 3] * 8), {0, 1}
    assert (row.value, row.n) == (pytest.approx(sum(right(run.steps[:4], shown)) / 16), 16)


def test_passes_that_a_budget_adds_do_not_count():
    run = Watched()
    with run.learner.lasting(12):
        assert run.teach([0, 1] * 8).n == 16


def test_where_there_is_no_number():
    run = Watched()
    run.step = 1
    assert run.look("every", 1)[0].note == NOTHING
    joint = Watched(Joint())
    assert joint.look("every", 1)[0].note == "Joint learns only at the last experience"


def scole(folder, told=lambda progress: None):
    """Five experiences of SCoLe on digits, looked at after every other one; saved at each chance."""
    words = "stream=scole_mnist stream.data=digits stream.experiences=5 stream.look_every=2 stream.samples=40"
    learner = "learner.batch=8 learner.threads=1 model=mlp model.hidden=8 'probes=[exams,online]'"
    [plan] = plans(shlex.split(f"{words} {learner}"))[0]
    with Recorder(folder) as recorder:
        Run(plan.stream, plan.strategy, plan.model, plan.learner, 0, plan.probes, recorder, 0.0, told=told)()
    return read_rows(folder / "rows.csv")


def test_each_experience_has_a_row_whatever_is_looked_at(tmp_path):
    """And the mean over samples is what it was when a row was of all experiences since the last look."""
    rows = scole(tmp_path)
    found = [row for row in rows if row.metric == "online/accuracy"]
    assert [(row.step, row.n) for row in found] == [(step, 40) for step in range(1, 6)]
    assert sorted({row.step for row in rows if row.metric == "class/accuracy"}) == [0, 2, 4, 5]
    together = [Row(step, 0, "online/accuracy", "", sum(r.value for r in of) / len(of), 40 * len(of))
                for step, of in ((2, found[:2]), (4, found[2:4]), (5, found[4:]))]  # fmt: skip
    assert online(found).number == pytest.approx(online(together).number)


@pytest.mark.parametrize("experience", [3, 4])
def test_stopped_and_run_again_it_has_the_same_rows(tmp_path, experience):
    def stop(progress):
        if progress.experience == experience:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scole(tmp_path / "stopped", stop)
    assert scole(tmp_path / "stopped") == scole(tmp_path / "whole")
