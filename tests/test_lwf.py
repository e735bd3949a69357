import copy

import pytest
import torch
import torch.nn.functional as F
from small import Net, images, lesson, opened, teach, weights
from test_strategies import AUGMENTED, same_run, two_lessons, watched
from torch import nn

from clbench.config import resolve
from clbench.learner import Learner
from clbench.strategies.baselines import Naive
from clbench.strategies.lwf import LwF
from clbench.testing import check_resume

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20


class WithDropout(Net):
    """What is otherwise in training: dropout and batch normalisation before the head."""

    def build(self, shape, classes):
        net = super().build(shape, classes)
        net.body.append(nn.BatchNorm1d(self.hidden)).append(nn.Dropout(0.5))
        return net


def seen_by_hand(logits, y, seen):
    """CE over the classes seen so far alone."""
    return F.cross_entropy(logits[:, seen], torch.tensor([seen.index(label) for label in y.tolist()]))


def test_the_warm_up_is_on_samples_of_new_classes():
    learner, strategy = opened(batch=8), LwF(warm_up=2)
    teach(learner, strategy, [lesson(images([0, 1] * 8), 0), lesson(images([1, 2] * 8), 1)])
    assert learner.step == 2 + 2 * 1 + 2
    assert all(p.isfinite().all() for p in learner.model.parameters())


@pytest.mark.parametrize("old", ["recorded", "teacher"])
def test_the_loss_by_hand(old):
    log: list = []
    learner = opened(batch=8, transform=AUGMENTED)
    lessons = two_lessons()
    strategy = watched(LwF, log, alpha=0.7, temperature=3.0, warm_up=0, old=old)
    teach(learner, strategy, lessons[:1])
    before = copy.deepcopy(learner.model).eval()
    learner.begin(lessons[1])
    strategy.learn(learner, lessons[1])
    assert len(log) == 10
    for step, (batch, model, loss) in enumerate(log):
        with torch.no_grad():
            new = model(batch.x)
            expected = seen_by_hand(new, batch.y, [0, 1] if step < 5 else [0, 1, 2, 3])
            if step >= 5:
                z = before(batch.x if old == "teacher" else learner.encode(batch.raw))
                # Mammoth's form: softmax over old classes, to the power 1 / T, to a sum of 1 again.
                p, q = (F.softmax(logits[:, :2], 1) ** (1 / 3.0) for logits in (z, new))
                p, q = (one / one.sum(1, keepdim=True) for one in (p, q))
                expected = expected - 0.7 * (p * q.log()).sum(1).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_old_network_answers_to_other_samples_when_it_is_asked_at_each_step():
    assert same_run(LwF(old="recorded"), LwF(old="recorded"))
    assert not same_run(LwF(old="recorded"), LwF(old="teacher"))


def test_without_distillation_and_warm_up_it_is_naive_with_the_seen_classes_in_the_loss():
    learners = [opened(epochs=2, batch=8, loss_mask=mask) for mask in ("all", "seen")]
    for learner, strategy in zip(learners, (LwF(alpha=0, warm_up=0), Naive()), strict=True):
        teach(learner, strategy, two_lessons())
    assert torch.equal(*map(weights, learners))
    assert not same_run(LwF(alpha=0, warm_up=1), LwF(alpha=0, warm_up=0))


def test_the_warm_up_is_plain_descent_of_new_rows_on_features_that_stand_still():
    class Stopped(LwF):
        """Only warms up."""

        def asked(self, learner, data):
            raise InterruptedError

    options = {"batch": 8, "lr": 0.2, "momentum": 0.9, "weight_decay": 0.1, "epochs": 2, "transform": AUGMENTED}
    learner, strategy = opened(model=WithDropout(), **options), Stopped(warm_up=3)
    lessons, log = two_lessons(), []
    teach(learner, strategy, lessons[:1])
    before = copy.deepcopy(learner.model)
    learner.begin(lessons[1])

    real = Learner.batches
    learner.batches = lambda *given: (log.append(batch) or batch for batch in real(learner, *given))
    with pytest.raises(InterruptedError):
        strategy.learn(learner, lessons[1])
    assert len(log) == 15
    weight, bias = before.head.weight.detach().clone(), before.head.bias.detach().clone()
    for batch in log:
        with torch.no_grad():
            features = before.body.eval()(batch.x)
            error = F.softmax(features @ weight[2:].T + bias[2:], 1) - F.one_hot(batch.y - 2, 2)
        weight[2:] -= 0.2 * error.T @ features / len(batch.y)
        bias[2:] -= 0.2 * error.mean(0)
    head = learner.model.head
    assert torch.allclose(head.weight, weight, atol=1e-5)
    assert torch.allclose(head.bias, bias, atol=1e-5)
    assert torch.equal(head.weight[:2], before.head.weight[:2])
    now, then = learner.model.body.state_dict(), before.body.state_dict()
    assert all(torch.equal(now[name], then[name]) for name in then)


def test_there_is_no_warm_up_where_no_class_is_new():
    labels = [[0, 1] * 20, [0, 1] * 20]
    for options, steps in (({}, 2 * 5), ({"warm_up": 7}, 2 * 5)):
        learner = opened(batch=8)
        teach(learner, LwF(**options), [lesson(images(part), n) for n, part in enumerate(labels)])
        assert learner.step == steps
    learner = opened(batch=8)
    teach(learner, LwF(warm_up=7), two_lessons())
    assert learner.step == 2 * 5 + 7 * 5


def test_the_answers_of_the_old_network_are_counted_and_let_go_of():
    recorded, teacher = opened(batch=8, epochs=3), opened(batch=8, epochs=3)
    strategies = LwF(warm_up=0), LwF(warm_up=0, old="teacher")
    for learner, strategy in zip((recorded, teacher), strategies, strict=True):
        teach(learner, strategy, two_lessons())
    forward = 40 * 2 * (16 * 8 + 8 * 4)
    assert recorded.flops.total == 2 * recorded.plain_cost(40) + forward
    assert teacher.flops.total == 2 * recorded.plain_cost(40) + 3 * forward
    assert strategies[0].answers is None


@pytest.mark.parametrize("old", ["recorded", "teacher"])
@pytest.mark.parametrize("warm_up", [None, 0])
def test_it_goes_on(old, warm_up):
    check_resume(LwF(old=old, warm_up=warm_up))


def drift_of_answers(alpha):
    """How far the answers on old classes are from those of the old network, after the second lesson."""
    learner, lessons = opened(batch=8, epochs=10), two_lessons()
    teach(learner, strategy := LwF(alpha=alpha, warm_up=0), lessons[:1])
    x = learner.encode(images(SECOND).source.x)
    before = learner.model(x)[:, :2].detach()
    learner.begin(lessons[1])
    strategy.learn(learner, lessons[1])
    return F.kl_div(F.log_softmax(learner.model(x)[:, :2], 1), F.softmax(before, 1), reduction="batchmean").item()


def test_distillation_keeps_the_answers_on_old_classes():
    assert drift_of_answers(3.0) < 0.5 * drift_of_answers(0.0)


def test_published_values():
    plan = resolve({"stream": "cifar10", "strategy": "lwf", "recipe": "der2020"})
    assert (plan.learner.lr, plan.learner.weight_decay, plan.strategy.alpha) == (0.01, 5e-4, 3.0)
