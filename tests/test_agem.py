import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import Net, images, lesson, numbers, opened, syllabus, teach, weights
from torch import nn

from clbench.errors import Mistake
from clbench.memory import Reservoir
from clbench.strategies.agem import AGEM, AGEMR, project
from clbench.strategies.baselines import Naive
from clbench.transform import ImageTransform

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20
AUGMENTED = ImageTransform(crop=1, flip=True)


def two_lessons():
    """Two lessons whose samples tell where they come from: those of the second have a bright last pixel."""
    first, second = images(FIRST), images(SECOND)
    first.source.x[:, -1, -1], second.source.x[:, -1, -1] = 0, 255
    return [lesson(first), lesson(second, 1)]


@pytest.mark.parametrize(
    ("gradient", "reference", "expected"),
    [
        ([1.0, 0.0], [-1.0, 1.0], [0.5, 0.5]),
        ([3.0, 4.0], [0.0, -2.0], [3.0, 0.0]),
        ([1.0, 0.0], [1.0, 1.0], [1.0, 0.0]),
        ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0]),
        ([1.0, 2.0], [0.0, 0.0], [1.0, 2.0]),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_projection_by_hand(gradient, reference, expected, parts):
    g, r = torch.tensor(gradient).split(2 // parts), torch.tensor(reference).split(2 // parts)
    g = [part.clone() for part in g]
    project(g, r)
    assert torch.cat(g).tolist() == pytest.approx(expected)


def whole(parts):
    return torch.cat([p.flatten() for p in parts])


def noted(kind, log, **options):
    """The strategy, with each step's gradient noted: (before, after, the gradient on the memory batch of the step)."""

    class Noted(kind):
        def adjust(self, learner):
            before = whole([p.grad for p in learner.model.parameters()])
            past = learner.recall(self.memory, learner.rng("reference"))
            model, reference = copy.deepcopy(learner.model), None
            if past is not None:
                model.zero_grad()
                F.cross_entropy(model(past.x), past.y).backward()
                reference = whole([p.grad for p in model.parameters()]).double().numpy()
            super().adjust(learner)
            after = whole([p.grad for p in learner.model.parameters()])
            log.append((before.double().numpy(), after.double().numpy(), reference))

    return Noted(**options)


@pytest.mark.parametrize("kind", [AGEM, AGEMR])
def test_each_step_is_projected_where_it_goes_against_memory(kind):
    log: list = []
    teach(opened(batch=8, epochs=2, transform=AUGMENTED), noted(kind, log, memory_size=20), two_lessons())
    turned = 0
    for before, after, reference in log:
        if reference is None or before @ reference >= 0:
            assert np.array_equal(before, after)
            continue
        turned += 1
        expected = before - before @ reference / (reference @ reference) * reference
        assert after == pytest.approx(expected, abs=1e-6)
        assert after @ reference == pytest.approx(0, abs=1e-6)
    assert 0 < turned < len(log)


def test_agem_without_a_past_is_naive():
    learners = [opened(batch=8, epochs=2, transform=AUGMENTED, momentum=0.9) for _ in range(2)]
    for learner, strategy in zip(learners, (AGEM(), Naive()), strict=True):
        teach(learner, strategy, two_lessons()[:1])
    assert torch.equal(*map(weights, learners))


def test_agem_keeps_an_equal_share_of_each_experience_as_it_is_stored():
    lessons = two_lessons()
    strategy = teach(opened(batch=8, epochs=2, transform=AUGMENTED), AGEM(memory_size=15), lessons)
    assert len(strategy.memory) == 14
    for number in (0, 1):
        x = strategy.memory.x[7 * number : 7 * number + 7]
        y = strategy.memory.y[7 * number : 7 * number + 7]
        places = x[:, 0, 0, 0].long()
        assert len(set(places.tolist())) == 7
        assert torch.equal(x, lessons[number].train.source.x[places])
        assert torch.equal(y, lessons[number].train.source.y[places])
    assert numbers(strategy.memory.x[:7]) != list(range(7))


def test_agem_draws_its_references_from_earlier_experiences_alone():
    drawn: list = []

    class Watched(AGEM):
        def adjust(self, learner):
            past = learner.recall(self.memory, learner.rng("reference"))
            drawn.append(None if past is None else past.y.tolist())
            super().adjust(learner)

    teach(opened(batch=8, replay_batch=5), Watched(memory_size=20), two_lessons())
    assert drawn[:5] == [None] * 5
    assert [len(labels) for labels in drawn[5:]] == [5] * 5
    assert {label for labels in drawn[5:] for label in labels} <= {0, 1}


def test_the_memory_of_agem_r_is_a_reservoir_of_the_stream():
    strategy = teach(opened(batch=8, epochs=2), AGEMR(memory_size=30), two_lessons())
    assert isinstance(strategy.memory, Reservoir)
    assert (strategy.memory.seen, len(strategy.memory)) == (160, 30)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(Mistake, match=r"strategy\.memory_size=3 is too small for 4 experiences\. .*agem_r\.$"):
        AGEM(memory_size=3).start(opened(), syllabus(sizes=[9] * 4))
    AGEM(memory_size=4).start(opened(), syllabus(sizes=[9] * 4))


class Spare:
    """A layer that nothing goes through."""

    def build(self, shape, classes):
        net = Net().build(shape, classes)
        net.spare = nn.Linear(3, 3)
        net.forward = lambda x: net.head(net.body(x))
        return net


def test_parameters_without_a_gradient_stay_and_change_nothing():
    learners = [opened(batch=8, model=model, weight_decay=0.1) for model in (Net(), Spare())]
    spare = [p.detach().clone() for p in learners[1].model.spare.parameters()]
    for learner in learners:
        learner.model.body[1].weight.requires_grad_(False)
        teach(learner, AGEMR(memory_size=20), two_lessons())
    trained = list(learners[0].model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(trained, learners[1].model.parameters(), strict=False))
    assert all(torch.equal(p, q) for p, q in zip(spare, learners[1].model.spare.parameters(), strict=True))
    assert trained[0].grad is None


def test_reference_passes_are_counted_as_training():
    learner = opened(batch=8, model=Net(hidden=0))
    teach(learner, AGEM(memory_size=16), two_lessons())
    product = 2 * 8 * 16 * 4  # of a batch, 8 x 16, and the weights, 16 x 4
    assert learner.flops.total == 10 * 2 * product + 5 * 2 * product


class Normed:
    def build(self, shape, classes):
        net = Net().build(shape, classes)
        net.body.insert(1, nn.BatchNorm1d(16))
        return net


def test_running_statistics_take_in_the_stream_s_batch_then_memory_s():
    learner = opened(batch=8, model=Normed())
    strategy, [first, second] = AGEM(memory_size=16), two_lessons()
    teach(learner, strategy, [first, lesson(images([2] * 8), 1)])
    norm = learner.model.body[1]
    assert int(norm.num_batches_tracked) == 5 + 2
    norm.reset_running_stats()
    shown: list = []
    norm.register_forward_hook(lambda module, inputs, output: shown.append(inputs[0].mean(0)))
    learner.begin(second)
    learner.fit([next(learner.batches(second.train))], strategy.loss, strategy.adjust)
    assert len(shown) == 2
    assert torch.allclose(norm.running_mean, 0.9 * 0.1 * shown[0] + 0.1 * shown[1])


def test_a_watcher_sees_the_stream_s_logits_not_the_reference():
    told: list = []
    learner = opened(batch=8)
    learner.watchers = [lambda batch, logits: told.append(torch.equal(logits, learner.model(batch.x)))]
    teach(learner, AGEMR(memory_size=20), two_lessons())
    assert told == [True] * 10


def test_agem_works_where_experiences_share_classes():
    for strategy in (AGEM(memory_size=20), AGEMR(memory_size=20)):
        learner = opened(batch=8)
        teach(learner, strategy, [lesson(images(FIRST)), lesson(images(FIRST), 1)])
        assert learner.step == 10
