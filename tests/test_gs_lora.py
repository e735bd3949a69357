"""Group-sparse LoRA: its loss by hand, what moves and what does not, and that it forgets what it is asked to."""

import math

import pytest
import torch
import torch.nn.functional as F
from small import Requests, Transformer, opened
from test_unlearning import accuracy

from clbench.adapters import reset
from clbench.batch import Batch
from clbench.errors import Mistake
from clbench.optimizer import cosine
from clbench.strategies.gs_lora import GSLoRA, GSLoRAPP, paired
from clbench.strategies.unlearning import divided

KINDS = pytest.mark.parametrize("kind", [GSLoRA, GSLoRAPP], ids=lambda kind: kind.__name__)


def begun(strategy, taught=0, **options):
    """A stream, a learner and the strategy, after `taught` experiences."""
    stream = Requests()
    stream.open(0)
    settings = {"epochs": 25, "lr": 0.003, "batch": 16, "optimizer": "adamw", **options}
    learner = opened(classes=6, side=6, model=Transformer(), transform=stream.transform(), **settings)
    strategy.start(learner, stream.syllabus())
    for experience in list(stream)[:taught]:
        learn(learner, strategy, experience)
    return stream, learner


def learn(learner, strategy, experience):
    learner.begin(experience)
    strategy.learn(learner, experience)
    learner.end()
    learner.model.eval()


def state(learner):
    return {name: t.detach().clone() for name, t in learner.model.state_dict().items()}


def a_batch(classes=6, size=5):
    rng = torch.Generator().manual_seed(3)
    x, y = torch.randn(size, 1, 6, 6, generator=rng), torch.arange(size) % classes
    return Batch(x, y, x)


def spread(learner, strategy):
    """Let B be other than 0."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in strategy.names:
            parameter = learner.model.get_parameter(name)
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))


def test_lora_is_on_both_layers_of_each_feed_forward_part_and_rests_in_the_first_experience():
    strategy = GSLoRA(rank=2, epochs=1)
    _, learner = begun(strategy)
    assert strategy.names == [
        f"body.blocks.{block}.mlp.fc{fc}.lora_{m}" for block in (0, 1) for fc in (1, 2) for m in "ab"
    ]
    trains = {name for name, p in learner.model.named_parameters() if p.requires_grad}
    assert not trains & set(strategy.names)
    assert len(trains) + len(strategy.names) == len(list(learner.model.parameters()))
    assert learner.model.body.blocks[0].mlp.fc1.lora_factor == 1 / 2


def test_the_group_lasso_by_hand():
    strategy = GSLoRA(rank=2, alpha=0.5, beta=0.0)
    _, learner = begun(strategy)
    spread(learner, strategy)
    strategy.weighs = strategy.alpha
    batch = a_batch()
    batch.past = (a_batch(),)
    learner.model.zero_grad()
    for name in strategy.names:
        learner.model.get_parameter(name).requires_grad_(True)
    sum(strategy.groups(learner.model)).backward()
    for block in (0, 1):
        members = [n for n in strategy.names if f"blocks.{block}." in n]
        values = [learner.model.get_parameter(n) for n in members]
        norm = math.sqrt(sum(float(v.detach().square().sum()) for v in values))
        for value in values:
            assert torch.allclose(value.grad, value.detach() / norm, atol=1e-6)
    with torch.no_grad():
        ce = F.cross_entropy(learner(batch.x), batch.y)
        whole = float(strategy.request_loss(learner, batch))
        assert whole == pytest.approx(float(ce + 0.5 * sum(strategy.groups(learner.model))), abs=1e-5)
        strategy.weighs = 0.0
        assert float(strategy.request_loss(learner, batch)) == pytest.approx(float(ce), abs=1e-6)


@KINDS
def test_the_forgetting_loss_has_no_gradient_above_its_bound(kind):
    options = {"repel": 0.0} if kind is GSLoRAPP else {}
    strategy = kind(rank=2, alpha=0.0, beta=1.0, **options)
    _, learner = begun(strategy)
    strategy.requests, batch = 1, a_batch()
    batch.past = (a_batch(size=4),)
    with torch.no_grad():
        ce = float(F.cross_entropy(learner(batch.past[0].x), batch.past[0].y))
        plain = float(F.cross_entropy(learner(batch.x), batch.y))

    def gradient(target):
        strategy.target = target
        learner.model.zero_grad()
        loss = strategy.request_loss(learner, batch)
        loss.backward()
        return float(loss.detach()), learner.model.head.bias.grad.clone()

    (below, pushes), (above, rests), (_, alone) = gradient(ce + 1), gradient(ce - 1), gradient(-1e9)
    assert below == pytest.approx(plain + 1, abs=1e-5)
    assert above == pytest.approx(plain, abs=1e-5)
    assert torch.equal(rests, alone)
    assert not torch.allclose(pushes, alone)


def test_the_default_bound_is_three_times_the_loss_of_a_guess():
    strategy = GSLoRA()
    begun(strategy)
    assert strategy.target == pytest.approx(3 * math.log(6))


def test_the_distance_to_prototypes_by_hand():
    strategy = GSLoRAPP()
    strategy.prototypes = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    features, y = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    p = torch.tensor([math.e, 1.0]) / (math.e + 1)
    first = float((p * (p.log() - math.log(0.5))).sum())
    assert float(strategy.distance(features, y)) == pytest.approx(first / 2, abs=1e-6)


def test_what_is_to_be_forgotten_is_driven_from_its_prototypes_and_what_remains_to_them():
    """CE + repel * ReLU(far - KL of what is to be forgotten) + attract * KL of what remains, KL by its definition."""
    strategy = GSLoRAPP(rank=2, alpha=0.0, beta=0.0, repel=0.5, attract=0.125)
    _, learner = begun(strategy)
    strategy.requests, batch = 1, a_batch()
    other = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(8))
    batch.past = (Batch(other, torch.tensor([5, 5, 4, 4]), other),)
    strategy.prototypes = torch.randn(6, 12, generator=torch.Generator().manual_seed(9))

    def kl(part):
        p, q = strategy.prototypes[part.y].softmax(1), learner.model.body(part.x).softmax(1)
        return float((p * (p / q).log()).sum(1).mean())

    with torch.no_grad():
        ce = float(F.cross_entropy(learner(batch.x), batch.y))
        remains, forgets = kl(batch), kl(batch.past[0])
        assert abs(remains - forgets) > 0.01
        for far, gap in ((forgets + 2, 2.0), (forgets - 0.1, 0.0)):
            strategy.far = far
            found = float(strategy.request_loss(learner, batch))
            assert found == pytest.approx(ce + 0.5 * gap + 0.125 * remains, abs=1e-5)


def test_prototypes_are_class_means_of_features_before_the_request():
    strategy = GSLoRAPP(epochs=1)
    stream, learner = begun(strategy, taught=1, epochs=1)
    train = stream[1].train
    raw, y = train.gather(torch.arange(len(train)))
    with torch.no_grad():
        z = learner.features(learner.encode(raw))
    learn(learner, strategy, stream[1])
    assert strategy.prototypes.shape == (6, 12)
    for label in range(6):
        assert torch.allclose(strategy.prototypes[label], z[y == label].mean(0), atol=1e-5)


@KINDS
def test_within_a_request_nothing_but_lora_moves_and_merging_changes_no_answer(kind):
    seen = {}

    class Watched(kind):
        def finish(self, model):
            seen["before"], seen["answers"] = state(learner), learner.model.eval()(x).detach()
            super().finish(model)

    strategy = Watched(rank=2, epochs=3)
    stream, learner = begun(strategy, taught=1, epochs=1)
    x, before = a_batch().x, state(learner)
    learn(learner, strategy, stream[1])
    moved = {name for name, t in seen["before"].items() if not torch.equal(t, before[name])}
    assert moved == set(strategy.names)
    assert torch.allclose(learner.model(x), seen["answers"], atol=1e-5)
    after = state(learner)
    merged = {name for name, t in after.items() if not torch.equal(t, before[name])} - set(strategy.names)
    assert merged == {f"body.blocks.{block}.mlp.fc{fc}.weight" for block in (0, 1) for fc in (1, 2)}
    assert all(not after[name].any() for name in strategy.names if name.endswith("lora_b"))
    assert strategy.norms.shape == (2,)


def test_without_beta_and_alpha_it_is_lora_on_what_remains():
    strategy = GSLoRA(rank=2, beta=0.0, alpha=0.0, epochs=4, lr=0.01)
    stream, learner = begun(strategy, taught=1, epochs=1)
    other = GSLoRA(rank=2, epochs=4)
    _, plain = begun(other, taught=1, epochs=1)
    learn(learner, strategy, stream[1])
    remaining, _ = divided(stream[1].train, stream[1].forget)
    plain.begin(stream[1])
    for name, parameter in plain.model.named_parameters():
        parameter.requires_grad_(name in other.names)
    phase = plain.new_optimizer(plain.steps(len(remaining), 4), 0.01, factor=cosine, kind="adamw", weight_decay=0.05)
    reset(plain.model, other.draw(plain))
    for _ in plain.passes(4):
        plain.fit(plain.batches(remaining), lambda a, b: a.criterion(a(b.x), b.y), optimizer=phase)
    x = a_batch().x
    assert torch.allclose(learner.model.eval()(x), plain.model.eval()(x), atol=1e-6)


def test_each_batch_of_what_remains_has_one_to_forget_over_and_over():
    stream, learner = begun(GSLoRA())
    remaining, forget = divided(stream[1].train, stream[1].forget)
    batches = list(paired(learner, remaining, forget))
    assert [len(b.y) for b in batches] == [16, 16, 8]
    assert [len(b.past[0].y) for b in batches] == [16, 4, 16]
    assert {label for b in batches for label in b.past[0].y.tolist()} == {4, 5}


def test_weights_by_request_and_warm_up():
    strategy = GSLoRA(beta=[0.1, 0.2])
    strategy.requests = 1
    found = [strategy.weight(strategy.beta)]
    for strategy.requests in (2, 3):
        found.append(strategy.weight(strategy.beta))
    assert found == [0.1, 0.2, 0.2]
    log = []

    class Watched(GSLoRA):
        def take(self, model, epoch):
            log.append((epoch, self.weighs))

    stream, learner = begun(watched := Watched(epochs=3, alpha=0.5, alpha_from=2), taught=1, epochs=1)
    learn(learner, watched, stream[1])
    assert log == [(0, 0.0), (1, 0.0), (2, 0.5)]


def test_averaged_answers_are_of_the_average_and_the_last_goes_on():
    kept = []

    class Watched(GSLoRA):
        def take(self, model, epoch):
            kept.append({name: model.get_parameter(name).detach().clone() for name in self.names})
            super().take(model, epoch)

    strategy = Watched(rank=2, epochs=4, answers="averaged", average_from=1, decay=0.75)
    stream, learner = begun(strategy, taught=1, epochs=1)
    x, base = a_batch().x, state(learner)
    learn(learner, strategy, stream[1])
    path = "body.blocks.1.mlp.fc2"
    mean = {n: 0.75 * (0.75 * kept[1][n] + 0.25 * kept[2][n]) + 0.25 * kept[3][n] for n in strategy.names}
    for values, weight in (
        (mean, strategy.averaged[f"{path}.weight"]),
        (kept[3], learner.model.get_parameter(f"{path}.weight")),
    ):
        expected = base[f"{path}.weight"] + values[f"{path}.lora_b"][0] @ values[f"{path}.lora_a"][0] / 2
        assert torch.allclose(weight, expected, atol=1e-6)
    with torch.no_grad():
        assert not torch.equal(strategy.predict(learner, x), learner(x))
    learn(learner, strategy, stream[0])
    with torch.no_grad():
        assert torch.equal(strategy.predict(learner, x), learner(x)), "the average is of before what was taught last"
    with pytest.raises(Mistake, match="average_from=30: a request has 4 epochs"):
        begun(GSLoRA(epochs=4, answers="averaged"))


@KINDS
def test_it_forgets_what_it_is_asked_to_and_keeps_the_rest(kind):
    strategy = kind(epochs=25, beta=3.0)
    stream, learner = begun(strategy, taught=1)
    exams = {exam.name: exam.data for exam in stream.exams()}
    before = {name: accuracy(learner, data) for name, data in exams.items()}
    assert min(before.values()) > 0.9
    learn(learner, strategy, stream[1])
    after = {name: accuracy(learner, data) for name, data in exams.items()}
    assert after["forget 1"] < 0.1
    assert after["remaining"] > 0.8


def test_alpha_lets_blocks_go():
    norms = []
    for alpha in (0.0, 0.05):
        strategy = GSLoRA(epochs=30, beta=0.0, alpha=alpha)
        stream, learner = begun(strategy, taught=1, epochs=2)
        learn(learner, strategy, stream[1])
        norms.append(float(strategy.norms.sum()))
    assert norms[1] < norms[0]
