import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import Net, Transformer, images, lesson, opened, teach, watched, weights

from clbench.batch import Batch
from clbench.strategies.baselines import Naive
from clbench.strategies.slca import SLCA, mean_length
from clbench.testing import check_resume


def two_lessons():
    return [lesson(images([0, 1] * 20)), lesson(images([2, 3] * 20 + [2] * 7), 1)]


def taught(strategy, lessons=two_lessons, **options):
    learner = opened(**{"lr": 0.1, "epochs": 2, "batch": 8, **options})
    return learner, teach(learner, strategy, lessons())


def test_with_an_equal_rate_and_no_alignment_it_is_training_with_task_identities():
    plain, _ = taught(Naive(), loss_mask="experience", momentum=0.9)
    learner, _ = taught(SLCA(slow=1.0, epochs=0), momentum=0.9)
    for name, value in plain.model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, learner.model.state_dict()[name])
    assert torch.equal(plain.model.head.weight[2:], learner.model.head.weight[2:])


def test_the_body_moves_at_a_share_of_the_rate():
    start = opened().model.state_dict()
    moved = []
    for slow in (1.0, 0.01):
        learner, _ = taught(SLCA(slow=slow), lambda: [lesson(images([0, 1] * 4))], epochs=1)
        moved.append({name: value - start[name] for name, value in learner.model.state_dict().items()})
    for name in moved[0]:
        share = 0.01 if name.startswith("body.") else 1.0
        assert torch.allclose(share * moved[0][name], moved[1][name], atol=1e-7)


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"momentum": 0.9}])
def test_rows_of_other_experiences_stay_as_training_left_them(options):
    start = opened().model.head.weight.detach().clone()
    _, first = taught(SLCA(), lambda: two_lessons()[:1], **options)
    _, both = taught(SLCA(), **options)
    assert torch.equal(first.raw["head.weight"][2:], start[2:])
    assert torch.equal(both.raw["head.weight"][:2], first.raw["head.weight"][:2])
    assert not torch.equal(both.raw["head.weight"][2:], start[2:])


def test_exams_see_the_aligned_head_and_training_the_other():
    log = []
    three = [*two_lessons(), lesson(images([0, 1] * 4), 2)]
    learner, strategy = taught(watched(SLCA, log), lambda: three[:2])
    aligned = learner.model.head.weight.detach().clone()
    assert not torch.equal(aligned, strategy.raw["head.weight"])
    learner.begin(three[2])
    before = len(log)
    raw = strategy.raw["head.weight"]
    strategy.learn(learner, three[2])
    assert torch.equal(log[before][1].head.weight, raw)


def test_alignment_leaves_the_body_alone():
    plain, _ = taught(SLCA(epochs=0), model=Transformer())
    learner, _ = taught(SLCA(epochs=3), model=Transformer())
    for name, value in plain.model.body.state_dict().items():
        assert torch.equal(value, learner.model.body.state_dict()[name])
    assert not torch.equal(weights(plain), weights(learner))


def test_statistics_are_of_the_network_after_its_experience():
    learner, strategy = taught(SLCA(epochs=0), lambda: two_lessons()[:1])
    data = two_lessons()[0].train
    with torch.no_grad():
        features = learner.features(learner.encode(data.gather(torch.arange(40))[0]))
    for label in (0, 1):
        own = features[data.labels == label].numpy()
        held = strategy.gaussians.parts[label][0]
        assert held.mean.numpy() == pytest.approx(own.mean(0), abs=1e-5)
        expected = np.cov(own, rowvar=False) + 1e-4 * np.eye(8)
        assert (held.spread @ held.spread.T).numpy() == pytest.approx(expected, abs=1e-5)


def test_means_of_old_classes_are_scaled_by_age():
    learner, strategy = taught(SLCA(samples=4000), epochs=1)
    batches = list(strategy.drawn(learner))
    assert [len(batch.y) for batch in batches] == [4000] * 4
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    for label, scale in enumerate([0.95, 0.95, 1, 1]):
        expected = scale * strategy.gaussians.parts[label][0].mean
        assert torch.allclose(x[y == label].mean(0), expected, atol=0.02)
    assert batches[0].y.unique().tolist() == [0, 1, 2, 3]


def test_lengths_of_logits_by_hand():
    logits = torch.tensor([[3.0, 4, 5, 0, 9], [0, 0, 0, 2, 9]])
    taught = torch.tensor([0, 0, 1, 1, -1])
    assert mean_length(logits, taught, 2).flatten().tolist() == pytest.approx([5, 1], abs=1e-5)
    assert mean_length(logits, taught + (taught >= 0), 3).flatten().tolist() == pytest.approx([5, 1], abs=1e-5)


@pytest.mark.parametrize("temperature", [0.1, None])
def test_the_loss_of_alignment_by_hand(temperature):
    learner, strategy = taught(SLCA(temperature=temperature), lambda: two_lessons()[:1])
    x, y = torch.randn(5, 8), torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        logits = learner.model.head(x)[:, :2]
        found = strategy.alignment_loss(learner, Batch(x, y, x))
    if temperature:
        logits = logits / logits.norm(dim=1, keepdim=True) / temperature
    assert float(found) == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-4)


def test_steps_of_alignment_are_counted():
    plain, _ = taught(SLCA(epochs=0))
    learner, _ = taught(SLCA(epochs=3, temperature=None))
    assert learner.step - plain.step == 3 * 4
    assert learner.flops.total - plain.flops.total == 3 * 4 * (2 * 2 * 256 * 8 * 4)


def test_a_mask_of_the_learner_does_not_confine_alignment():
    found = [weights(taught(SLCA(), loss_mask=mask)[0]) for mask in ("all", "experience")]
    assert torch.equal(*found)


@pytest.mark.parametrize("strategy", [SLCA(storage="centroids"), SLCA(storage="variance", temperature=None)])
def test_it_goes_on_under_options(strategy):
    check_resume(strategy)


def test_a_stream_that_shares_classes_can_be_learned():
    learner = opened(model=Net(), lr=0.1)
    lessons = [lesson(images([0, 1] * 9)), lesson(images([1, 0] * 9), 1)]
    strategy = teach(learner, SLCA(), lessons, classes=4)
    assert {label: len(parts) for label, parts in strategy.gaussians.parts.items()} == {0: 2, 1: 2}
    assert learner(torch.rand(2, 1, 4, 4)).isfinite().all()
