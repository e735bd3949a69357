"""SaRA: which weights train, what holds their change, and where they stop."""

import pytest
import torch
from small import Net, Transformer, images, lesson, opened, syllabus, teach, weights

from clbench.errors import Mistake
from clbench.modules import of_body, tensors
from clbench.strategies.baselines import Naive
from clbench.strategies.merging import ZeroShotMerge
from clbench.strategies.replay import ER
from clbench.strategies.sara import SaRA, polar
from clbench.strategies.values import copied

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]


def state(learner):
    return {name: t.detach().clone() for name, t in tensors(learner.model).items()}


class Watched(SaRA):
    """Notes for each experience the weights before it, and masks and weights at first and after each step."""

    def masked(self, learner, masks, whole=()):
        self.told = [*getattr(self, "told", []), (state(learner), [])]
        return super().masked(learner, masks, whole)

    def around_batches(self, learner, batches):
        seen = self.told[-1][1]
        if not seen:
            seen.append((dict(self.masks), state(learner)))
        for batch in batches:
            yield batch
            seen.append((dict(self.masks), state(learner)))


def test_the_smallest_of_the_whole_body_by_hand():
    """Magnitudes from 1 to 10, the biases' 1 and 9: the smallest 4 of 10 are up to 4."""
    learner, strategy = opened(model=Net(hidden=2), side=2), Watched(share=0.4)
    with torch.no_grad():
        learner.model.body[1].weight.copy_(torch.tensor([[-2.0, 7.0, 5.0, 4.0], [10.0, 8.0, -6.0, 3.0]]))
        learner.model.body[1].bias.copy_(torch.tensor([-1.0, 9.0]))
    strategy.start(learner, syllabus(side=2, sizes=[8]))
    one = lesson(images([0, 1] * 4, side=2))
    learner.begin(one)
    strategy.learn(learner, one)
    masks = strategy.told[0][1][0][0]
    assert masks["body.1.weight"].tolist() == [[True, False, False, True], [False, False, False, True]]
    assert masks["body.1.bias"].tolist() == [True, False]
    assert strategy.threshold == 4.0


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "keep_optimizer": True},
        {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.1},
    ],
    ids=["momentum", "adamw"],
)
def test_what_is_not_chosen_stands_still_and_what_grows_past_the_threshold_stops_halfway(options):
    learner, strategy = opened(model=Transformer(), batch=8, epochs=2, **options), Watched(share=0.2, nuclear=0.01)
    teach(learner, strategy, LESSONS)
    assert strategy.masks == strategy.anchors == strategy.origins == {}
    assert all(p.requires_grad for p in learner.model.parameters())
    for before, seen in strategy.told:
        first, (later, halfway) = seen[0][0], seen[4]
        flat = {name: before[name].abs() for name in first}
        size, count = sum(map(torch.numel, flat.values())), sum(int(mask.sum()) for mask in first.values())
        threshold = max(float(flat[name][mask].max()) for name, mask in first.items() if mask.any())
        assert set(first) == {name for name in before if not name.startswith("head.")}
        assert count == round(0.2 * size)
        assert threshold <= min(float(flat[name][~mask].min()) for name, mask in first.items() if not mask.all())
        for masks, now in seen[1:4]:
            assert all(torch.equal(masks[name], first[name]) for name in first)
            assert all(torch.equal(now[name][~mask], before[name][~mask]) for name, mask in first.items())
        for name, mask in first.items():
            assert torch.equal(later[name], mask & (halfway[name].abs() <= threshold)), name
            assert torch.equal(seen[8][1][name][~later[name]], halfway[name][~later[name]]), name
        going = sum(int(mask.sum()) for mask in later.values())
        moved = sum(int((seen[8][1][name] != halfway[name]).sum()) for name in first)
        assert 0.9 * going < moved <= going < count


@pytest.mark.parametrize("make", [Naive, lambda: ER(memory_size=10)], ids=["naive", "er"])
def test_of_all_weights_and_without_the_norm_it_is_its_base(make):
    tuned, plain = (opened(model=Transformer(), batch=8, epochs=2, momentum=0.9) for _ in range(2))
    teach(tuned, SaRA(make(), share=1.0, nuclear=0.0, reselect=1.0), LESSONS)
    teach(plain, make(), LESSONS)
    assert torch.equal(weights(tuned), weights(plain))
    assert tuned.flops.total == plain.flops.total


def test_the_gradient_of_the_nuclear_norm_is_that_of_torch():
    change = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.linalg.matrix_norm(change, "nuc").backward()
    torch.testing.assert_close(polar(change.detach()), change.grad)
    torch.testing.assert_close(polar(change.detach().T), change.grad.T)


def test_where_the_norm_has_no_gradient_it_is_the_smallest():
    assert not polar(torch.zeros(3, 2)).any()
    one = torch.tensor([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(polar(one), one / 2)
    assert not polar(torch.full((2, 2), torch.nan)).any()


def test_the_second_step_has_the_norm_of_the_first_one_s_change():
    """Until a first step nothing has changed, and the norm asks for nothing. Vectors have none. Units at rest, which
    change by nothing, are left out: there torch takes any direction.
    """
    options = {"model": Net(hidden=6), "batch": 32, "lr": 0.5}
    ends = []
    for epochs, strategy in ((1, Naive()), (2, Naive()), (2, SaRA(share=1.0, nuclear=0.3, reselect=1.0))):
        learner = opened(epochs=epochs, **options)
        start = state(learner)
        teach(learner, strategy, LESSONS[:1])
        ends.append(state(learner))
    once, plain, ours = ends
    change = once["body.1.weight"] - start["body.1.weight"]
    live = change.any(1)
    moving = change[live].requires_grad_(True)
    torch.linalg.matrix_norm(moving, "nuc").backward()
    pressed = plain["body.1.weight"] - ours["body.1.weight"]
    assert live.sum() > 1
    torch.testing.assert_close(pressed[live], 0.5 * 0.3 * moving.grad, rtol=1e-3, atol=1e-5)
    assert not pressed[~live].any()
    torch.testing.assert_close(plain["body.1.bias"], ours["body.1.bias"])


def test_a_body_without_weights_has_none_that_are_small():
    with pytest.raises(Mistake, match="sara trains the smallest weights of the body, and of this model's none trains"):
        SaRA().start(opened(model=Net(hidden=0)), syllabus(sizes=[32]))


def test_where_the_base_begins_elsewhere_what_stands_still_stands_there():
    learner = opened(model=Transformer(), batch=8)
    strategy = SaRA(ZeroShotMerge(), share=0.2)
    before = {}

    class Noted(Naive):
        def learn(self, learner, experience):
            before.update(copied(learner.model, dict(learner.model.named_parameters())))
            super().learn(learner, experience)

    strategy.base.base = Noted()
    strategy.start(learner, syllabus(sizes=[32, 32]))
    first = copied(learner.model, dict(learner.model.named_parameters()))
    for experience in LESSONS:
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
        assert all(torch.equal(before[name], first[name]) for name in first)
        still = torch.cat([(p.detach() == first[name]).flatten() for name, p in of_body(learner.model).items()])
        assert 0.8 <= float(still.float().mean()) < 1
