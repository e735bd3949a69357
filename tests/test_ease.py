import math

import pytest
import torch
import torch.nn.functional as F
from small import Net, Transformer, images, lesson, opened, syllabus, teach

from clbench.errors import Mistake
from clbench.modules import swapped
from clbench.strategies.ease import EASE, completed, reweighted
from clbench.strategies.prototypes import LOWEST
from clbench.testing import check_resume


def three_lessons():
    return [lesson(images([i, i + 1] * 10), n) for n, i in enumerate((0, 2, 4))]


def taught(lessons=three_lessons, **options):
    learner = opened(classes=7, model=Transformer(), lr=0.2, epochs=2)
    return learner, teach(learner, EASE(**{"rank": 4, **options}), lessons(), classes=7)


def features(learner, strategy, x, number):
    with swapped(learner.model, strategy.adapters[number]), torch.no_grad():
        return learner.features(x)


def inputs(learner, data):
    return learner.encode(data.gather(torch.arange(len(data)))[0])


def test_means_of_old_classes_by_hand():
    means = torch.tensor([[[1.0, 0], [0, 2], [3, 0]], [[9, 9], [4, 4], [0, 8]]])
    found = completed(means, torch.tensor([0, 1, 1]))
    assert torch.equal(found[0], means[0])
    assert torch.equal(found[1, 1:], means[1, 1:])
    near, far = math.e / (1 + math.e), 1 / (1 + math.e)
    assert found[1, 0].tolist() == pytest.approx([far * 4, far * 4 + near * 8])


def test_means_over_three_subspaces_class_by_class():
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(3, 7, 5, generator=rng)
    taught = torch.tensor([0, 0, 1, 1, 2, 2, -1])
    found = completed(means, taught)
    for space in range(3):
        for label in range(6):
            own = int(taught[label])
            expected = means[space, label]
            if own < space:
                later = [n for n in range(6) if taught[n] >= space]
                likeness = torch.stack([F.cosine_similarity(means[own, label], means[own, n], dim=0) for n in later])
                expected = (likeness.softmax(0)[:, None] * means[space, later]).sum(0)
            assert torch.allclose(found[space, label], expected, atol=1e-5)


def test_logits_of_two_experiences_are_the_formula():
    rng = torch.Generator().manual_seed(0)
    f, w = torch.randn(2, 4, 3, generator=rng), torch.randn(2, 3, 3, generator=rng)
    found = reweighted(f, w, torch.tensor([0, 0, 1]), 0.1)
    cos = [[F.cosine_similarity(f[j][:, None], w[j][None], dim=2)] for j in range(2)]
    first, second = cos[0][0], cos[1][0]
    expected = torch.stack(
        [first[:, 0] + 0.1 * second[:, 0], first[:, 1] + 0.1 * second[:, 1], second[:, 2] + 0.1 * first[:, 2]], 1
    )
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(reweighted(f[:1], w[:1], torch.tensor([0, 0, 0]), 0.1), first, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_whole_of_it_from_the_adapters_alone(beta):
    learner, strategy = taught(beta=beta)
    means = torch.zeros(3, 7, 12)
    plain = torch.zeros(7, 12)
    start = opened(classes=7, model=Transformer()).model.eval()
    for number, one in enumerate(three_lessons()):
        for label in one.classes:
            x = inputs(learner, one.train)[one.train.labels == label]
            plain[label] = start.body(x).mean(0)
            for space in range(number + 1):
                means[space, label] = features(learner, strategy, x, space).mean(0)
    weights = completed(means, torch.tensor([0, 0, 1, 1, 2, 2, -1]))
    x = torch.rand(5, 1, 4, 4)
    with torch.no_grad():
        found = strategy.predict(learner, x)
        original = start.body(x)
    cos = torch.stack(
        [F.cosine_similarity(features(learner, strategy, x, j)[:, None], weights[j], dim=2) for j in range(3)]
    )
    for label in range(6):
        own = label // 2
        expected = cos[own, :, label] + 0.1 / 2 * sum(cos[j, :, label] for j in range(3) if j != own)
        expected = expected + beta * F.cosine_similarity(original, plain[label], dim=1)
        assert torch.allclose(found[:, label], expected, atol=1e-4)
    assert found[:, 6].unique().tolist() == [LOWEST]


def test_each_experience_trains_adapters_from_the_same_beginning():
    learner, strategy = taught()
    alone = opened(classes=7, model=Transformer(), lr=0.2, epochs=2)
    other = EASE(rank=4)
    other.start(alone, syllabus(classes=7, sizes=[20, 20, 20]))
    alone.step = learner.steps(20)
    second = three_lessons()[1]
    alone.begin(second)
    other.learn(alone, second)
    for name, value in other.adapters[0].items():
        assert torch.allclose(value, strategy.adapters[1][name], atol=1e-6)
    first, second = ({n: v for n, v in a.items() if ".up." in n} for a in strategy.adapters[:2])
    assert not any(torch.allclose(value, second[name], rtol=1e-2) for name, value in first.items())


def test_the_network_stands_still():
    original = opened(classes=7, model=Transformer()).model
    learner, strategy = taught()
    for name, value in original.body.named_parameters():
        assert torch.equal(value, learner.model.body.get_parameter(name))
    assert {name for name, p in learner.model.named_parameters() if p.requires_grad} == {
        *strategy.names,
        "head.weight",
        "head.scale",
    }


def test_a_pass_for_each_subspace_is_counted():
    options = {"rank": 4, "alpha": 0.1}
    less, more = taught(**options)[0].flops, taught(**options, beta=1.0)[0].flops
    one = {kind: cost for kind, cost in more.table.items() if kind[0] == "features_of"}
    assert len(one) == 1
    assert more.total - less.total == 3 * next(iter(one.values()))


def test_streams_and_networks_that_do_not_fit_are_refused():
    with pytest.raises(Mistake, match="teaches some in several"):
        EASE().start(opened(model=Transformer()), syllabus(shared=True))
    with pytest.raises(Mistake, match="vision transformer"):
        EASE().start(opened(model=Net()), syllabus())


def test_it_goes_on_with_the_network_itself_as_a_subspace():
    check_resume(EASE(rank=4, beta=1.0), model=Transformer())
