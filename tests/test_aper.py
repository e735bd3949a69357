import copy

import pytest
import torch
import torch.nn.functional as F
from small import Net, Transformer, images, lesson, opened, syllabus, teach
from torch import nn

from clbench.errors import Mistake
from clbench.strategies.aper import APER
from clbench.strategies.cosine import cosine_head
from clbench.strategies.simplecil import SimpleCIL
from clbench.testing import check_resume

TUNES = ["adapter", "ssf", "vpt_shallow", "vpt_deep", "full"]


def two_lessons():
    return [lesson(images([0, 1] * 20)), lesson(images([2, 3] * 20 + [2] * 7), 1)]


def taught(lessons=two_lessons, **options):
    learner = opened(model=Transformer(), lr=0.1, epochs=2)
    return learner, teach(learner, APER(**options), lessons())


def test_a_cosine_head_by_hand():
    model = nn.Sequential()
    model.head = nn.Linear(2, 2)
    cosine_head(model)
    model.head.weight.data = torch.tensor([[2.0, 0], [3, 4]])
    model.head.scale.data.fill_(10)
    assert model.head(torch.tensor([[0.0, 0.5]])).tolist() == [pytest.approx([0, 8])]
    assert copy.deepcopy(model).head(torch.tensor([[0.0, 0.5]])).tolist() == [pytest.approx([0, 8])]
    assert {name for name, _ in model.named_parameters()} == {"head.weight", "head.scale"}


def test_a_head_that_is_no_linear_layer_is_refused():
    model = nn.Sequential()
    model.head = nn.ReLU()
    with pytest.raises(Mistake, match="here it is a ReLU"):
        cosine_head(model)


@pytest.mark.parametrize("tune", TUNES)
def test_answers_are_cosines_to_class_means_of_both_networks(tune):
    start = opened(model=Transformer()).model
    learner, strategy = taught(tune=tune)
    means = torch.zeros(4, 24)
    for one in two_lessons():
        x = learner.encode(one.train.gather(torch.arange(len(one.train)))[0])
        with torch.no_grad():
            both = torch.cat([start.eval().body(x), learner.model.body(x)], 1)
        for label in one.classes:
            means[label] = both[one.train.labels == label].mean(0)
    asked = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        both = torch.cat([start.body(asked), learner.model.body(asked)], 1)
        found = strategy.predict(learner, asked)
    assert torch.allclose(found, F.cosine_similarity(both[:, None], means, dim=2), atol=1e-5)


@pytest.mark.parametrize("tune", TUNES)
def test_only_what_is_tuned_moves_and_only_in_the_first_experience(tune):
    original = dict(opened(model=Transformer()).model.named_parameters())
    learner, _ = taught(lambda: two_lessons()[:1], tune=tune)
    further, _ = taught(tune=tune)
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, further.model.get_parameter(name))
        if name.startswith("body.") and name in original:
            assert torch.equal(parameter, original[name]) == (tune != "full")
        assert parameter.requires_grad == (tune == "full" or name not in original or name.startswith("head."))
    grown = {name for name, _ in learner.model.named_parameters()} - original.keys() - {"head.scale"}
    assert bool(grown) == (tune != "full")


def test_classes_to_come_take_no_part_in_tuning():
    learner, _ = taught(lambda: two_lessons()[:1])
    other = opened(model=Transformer(), lr=0.1, epochs=2)
    strategy = APER()
    strategy.start(other, syllabus(sizes=[40]))
    other.model.head.weight.data[2:] *= -1
    other.begin(two_lessons()[0])
    strategy.learn(other, two_lessons()[0])
    for name, parameter in learner.model.named_parameters():
        same = parameter if name != "head.weight" else torch.cat([parameter[:2], -parameter[2:]])
        assert torch.equal(same, other.model.get_parameter(name))


def test_without_tuning_it_is_simplecil():
    learner, strategy = taught(tune="none")
    plain = opened(model=Transformer())
    simple = teach(plain, SimpleCIL(), two_lessons())
    x = torch.rand(9, 1, 4, 4)
    with torch.no_grad():
        assert torch.allclose(strategy.predict(learner, x), simple.predict(plain, x), atol=1e-5)
    assert learner.step == 0


def test_what_it_needs_is_said_by_its_options():
    assert APER().needs == APER(tune="vpt_deep").needs >= {"transformer", "unmixed lessons"}
    assert "transformer" not in APER(tune="full").needs | APER(tune="none").needs
    with pytest.raises(Mistake, match="vision transformer"):
        APER().start(opened(model=Net()), syllabus())


def test_the_whole_of_any_network_can_be_tuned():
    check_resume(APER(tune="full"))
