import copy
import math

import pytest
import torch
from torch import nn

from clbench.optimizer import KINDS, Followed, Moved, Optimizer, cosine, multistep
from clbench.state import pack_value, unpack_value


def parameters(seed=0):
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]


def push(params, step, scale=1.0):
    """Gradients that depend on the step alone."""
    for n, p in enumerate(params):
        p.grad = scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + n))


def rates(optimizer, steps):
    """The rate at each step."""
    found = []
    for step in range(steps):
        found.append(optimizer.torch.param_groups[0]["lr"])
        push(optimizer.parameters, step)
        optimizer.step()
    return found


def closed(scheduler, steps):
    """The rate at each of torch's steps; `scheduler` makes torch's scheduler for an optimiser of rate 0.5."""
    reference = torch.optim.SGD(parameters(), 0.5)
    schedule, found = scheduler(reference), []
    for step in range(steps):
        found.append(reference.param_groups[0]["lr"])
        push(reference.param_groups[0]["params"], step)
        reference.step()
        schedule.step()
    return found


def test_multistep_falls_where_torch_lets_it_fall():
    epochs, each = 9, 7
    ours = Optimizer(parameters(), "sgd", 0.5, factor=multistep([3 / epochs, 7 / epochs], 0.2), steps=epochs * each)
    theirs = closed(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3 * each, 7 * each], 0.2), epochs * each)
    assert rates(ours, epochs * each) == pytest.approx(theirs)
    assert theirs[20:22] == [0.5, pytest.approx(0.1)]


@pytest.mark.parametrize("epochs", [3, 7, 50, 49])
def test_milestones_are_met_at_the_first_step_of_their_epoch(epochs):
    for each in (1, 3, 11, 313):
        for milestone in range(1, epochs):
            factor = multistep([milestone / epochs], 0.1)
            assert factor(milestone * each / (epochs * each)) == pytest.approx(0.1)
            assert factor((milestone * each - 1) / (epochs * each)) == 1


def test_cosine_is_that_of_torch():
    ours = Optimizer(parameters(), "sgd", 0.5, factor=cosine, steps=40)
    theirs = closed(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40), 40)
    assert rates(ours, 40) == pytest.approx(theirs)
    assert [cosine(0), cosine(0.5), cosine(1), cosine(1.2)] == pytest.approx([1, 0.5, 0, 0])


def test_the_first_step_has_the_rate_of_the_schedule_too():
    optimizer = Optimizer(parameters(), "sgd", 0.5, factor=lambda progress: 0.1 + progress, steps=10)
    assert rates(optimizer, 3) == pytest.approx([0.05, 0.1, 0.15])


@pytest.mark.parametrize(("scale", "norm"), [(100.0, 2.0), (1e-3, None)])
def test_clipping_bounds_the_norm_of_the_whole_gradient(scale, norm):
    start, moved = parameters(), parameters()
    optimizer = Optimizer(moved, "sgd", 1.0, clip=2.0)
    push(moved, 0, scale)
    grads = [p.grad.clone() for p in moved]
    whole = torch.cat([g.flatten() for g in grads]).norm()
    optimizer.step()
    for before, after, grad in zip(start, moved, grads, strict=True):
        shrunk = grad * (norm / whole if norm else 1)
        torch.testing.assert_close(before - after, shrunk, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01)),
        ("adam", lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01)),
    ],
)
def test_steps_are_those_of_torch(kind, reference):
    ours, theirs = parameters(), parameters()
    optimizer, expected = Optimizer(ours, kind, 0.1, momentum=0.9, weight_decay=0.01), reference(theirs)
    for step in range(5):
        push(ours, step)
        push(theirs, step)
        optimizer.step()
        expected.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [None, cosine])
def test_state_goes_on_where_it_was_taken(kind, factor):
    params = parameters()
    optimizer = Optimizer(params, kind, 0.1, momentum=0.9, weight_decay=0.01, factor=factor, steps=12)
    rates(optimizer, 5)
    tree, tensors = pack_value(optimizer, "optimizer")
    kept = [p.detach().clone() for p in params]
    again = [nn.Parameter(p) for p in copy.deepcopy(kept)]
    other = Optimizer(again, kind, 0.1, momentum=0.9, weight_decay=0.01, factor=factor, steps=12)
    unpack_value(tree, tensors, other, lambda index: None, torch.device("cpu"))
    assert rates(other, 7) == rates(optimizer, 7)
    for a, b in zip(params, again, strict=True):
        assert torch.equal(a, b)


def test_half_a_cosine_by_hand():
    optimizer = Optimizer(parameters(), "sgd", 0.2, factor=cosine, steps=4)
    assert rates(optimizer, 4) == pytest.approx([0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5))])


def test_a_parameter_may_begin_to_train_later():
    """Momentum in torch's fused form: as in the plain one, also for what had no gradient in the first step."""
    ours, theirs = ([nn.Parameter(torch.ones(3)) for _ in range(2)] for _ in range(2))
    optimizer, plain = Optimizer(ours, "sgd", 0.1, momentum=0.9), torch.optim.SGD(theirs, 0.1, momentum=0.9)
    for step in range(4):
        for made, parameters in ((optimizer, ours), (plain, theirs)):
            made.zero_grad()
            sum((step + 1) * p.square().sum() for p in parameters[: 1 + step % 2]).backward()
            made.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_what_follows_a_step():
    parameter, seen = nn.Parameter(torch.ones(1)), []
    inner = Optimizer([parameter], "sgd", 0.1, steps=7)
    outer = Followed(inner, lambda: seen.append(parameter.item()))
    for _ in range(2):
        outer.zero_grad()
        parameter.sum().backward()
        outer.step()
    assert seen == pytest.approx([0.9, 0.8])
    assert (outer.done, outer.steps) == (inner.done, 7) == (2, 7)


def test_what_stands_outside_hands_on_its_schedule():
    inner = Optimizer(parameters(), "sgd", 0.5, factor=cosine, steps=9)
    outer = Followed(Moved(inner, lambda: None), lambda: None)
    outer.begin(2)
    outer.follow(lambda done: 1 - done / 4)
    assert rates(outer, 2) == pytest.approx([0.5, 0.5 * 7 / 8])
    outer.stepped()
    assert (outer.done, inner.done, inner.steps) == (3, 3, 2)


def test_parameters_by_their_share_of_the_rate():
    fast, slow = parameters()
    start = [fast.detach().clone(), slow.detach().clone()]
    optimizer = Optimizer({1.0: [fast], 0.1: [slow]}, "sgd", 0.5, factor=lambda done: 1 - done / 2, steps=2)
    for step in range(2):
        push([fast, slow], 0)
        optimizer.step()
        start[0] -= 0.5 * (1 - step / 4) * fast.grad
        start[1] -= 0.05 * (1 - step / 4) * slow.grad
    torch.testing.assert_close([fast.detach(), slow.detach()], start)
