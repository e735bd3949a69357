"""Requests to forget, by plain means: who sees what, the bounded ascent, and networks that begin anew."""

import pytest
import torch
from small import Net, Requests, images, opened, watched, weights

from clbench.batch import Batch
from clbench.errors import Mistake
from clbench.memory import Reservoir
from clbench.strategies.baselines import Cumulative, Joint, Naive
from clbench.strategies.consolidation import EWC
from clbench.strategies.distillation import DERPP
from clbench.strategies.lwf import LwF
from clbench.strategies.prototypes import NCM
from clbench.strategies.replay import ER
from clbench.strategies.unlearning import L2, SCRUB, Remain, Retrain, ascent, bound, divided, endless
from clbench.strategy import Strategy, memory_of
from clbench.testing import check_resume


def accuracy(learner, data):
    raw, y = data.gather(torch.arange(len(data)))
    with torch.no_grad():
        return float((learner.model.eval()(learner.encode(raw)).argmax(1) == y).float().mean())


def run(strategy, requests=2, seed=0, model=None, **options):
    """A learner after experience 0 and so many requests, and accuracy on each exam after each."""
    stream = Requests()
    stream.open(seed)
    settings = {"epochs": 10, "lr": 0.1, "batch": 16, "seed": seed, **options}
    learner = opened(classes=6, side=6, model=model or Net(32), transform=stream.transform(), **settings)
    strategy.start(learner, stream.syllabus())
    found = []
    for experience in list(stream)[: 1 + requests]:
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
        found.append({exam.name: accuracy(learner, exam.data) for exam in stream.exams()})
    return learner, found


def test_samples_at_hand_are_divided_by_label():
    stream = Requests()
    stream.open(0)
    remaining, forget = divided(stream[1].train, stream[1].forget)
    assert set(remaining.labels.tolist()) == {0, 1, 2, 3}
    assert set(forget.labels.tolist()) == {4, 5}
    assert len(remaining) + len(forget) == len(stream[1].train)


def test_an_ordinary_strategy_goes_on_training_on_what_it_should_forget():
    assert run(Naive())[1][1]["forget 1"] > 0.9


@pytest.mark.parametrize("base", [Naive, ER, DERPP, EWC, LwF, L2], ids=lambda kind: kind.__name__)
def test_around_a_base_no_sample_to_forget_is_trained_on(base):
    log = []

    class Shown(Remain):
        def around_loss(self, learner, loss):
            def noted(learner, batch):
                log.append((self.forget, [batch.y.tolist(), *(p.y.tolist() for p in batch.past)]))
                return loss(learner, batch)

            return noted

    _, found = run(Shown(base=base()))
    assert {label for forget, labels in log if forget == [4, 5] for y in labels for label in y} == {0, 1, 2, 3}
    assert {label for forget, labels in log if forget == [2, 3] for y in labels for label in y} == {0, 1}
    assert found[2]["remaining"] > 0.9


@pytest.mark.parametrize("base", [Naive, ER, DERPP, EWC, LwF, L2], ids=lambda kind: kind.__name__)
def test_the_ascent_forgets_and_the_base_keeps(base):
    _, found = run(Remain(base=base(), beta=5.0, epochs=30))
    for request in (1, 2):
        assert found[request][f"forget {request}"] < 0.2
        assert found[request]["remaining"] > 0.9


def test_without_ascent_it_is_fine_tuning_on_what_remains():
    log, plain = [], []
    around, _ = run(Remain(base=watched(Naive, log)), requests=1)
    stream = Requests()
    stream.open(0)
    learner = opened(classes=6, side=6, model=Net(32), transform=stream.transform(), epochs=10, lr=0.1, batch=16)
    for experience, data in ((stream[0], stream[0].train), (stream[1], divided(stream[1].train, [4, 5])[0])):
        learner.begin(experience)
        learner.optim = learner.new_optimizer(learner.steps(len(data)))
        for _ in learner.passes():
            learner.fit(learner.batches(data), watched(Strategy, plain).loss)
    assert torch.equal(weights(around), weights(learner))


@pytest.mark.parametrize("base", [Cumulative, Joint])
def test_around_what_keeps_every_lesson_it_is_refused(base):
    with pytest.raises(Mistake, match=f"and {base.__name__.lower()} trains on all that was ever taught"):
        run(Remain(base=base()))


def test_a_memory_around_it_forgets_as_well():
    run(strategy := NCM(base=Remain(), memory_size=60), requests=1)
    assert set(memory_of(strategy).data().labels.tolist()) == {0, 1, 2, 3}
    assert strategy.known.tolist() == [True] * 4 + [False] * 2


def test_a_request_of_what_is_not_at_hand_is_said():
    with pytest.raises(Mistake, match="A request names classes"):
        endless(opened(), images([]))


def test_the_ascent_has_no_gradient_above_its_bound():
    learner = opened(classes=4)
    x, y = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    ce = float(torch.nn.functional.cross_entropy(learner(x), y).detach())
    for target, moves in ((ce + 0.1, True), (ce - 0.1, False)):
        learner.model.zero_grad()
        loss = ascent(learner, Batch(x, y, x), target)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(max(target - ce, 0), abs=1e-6)
        assert (float(learner.model.head.bias.grad.abs().sum()) > 0) == moves
    assert bound(None, 100) == pytest.approx(13.8155, abs=1e-3)
    assert bound(105.0, 100) == 105.0


def test_a_request_has_a_pace_of_its_own_and_the_learner_its_own_again():
    seen = []

    class Paced(Naive):
        def batches(self, learner, experience):
            seen.append((learner.epochs, learner.lr, learner.optim.lr))
            yield from super().batches(learner, experience)

    learner, _ = run(Remain(base=Paced(), epochs=2, lr=0.01), requests=1)
    assert seen == [(10, 0.1, 0.1)] * 10 + [(2, 0.01, 0.01)] * 2
    assert (learner.epochs, learner.lr) == (10, 0.1)


def test_memory_lets_go_of_labels_for_good():
    memory = Reservoir(6)
    memory.add(
        torch.arange(1, 7)[:, None], torch.tensor([0, 1, 2, 0, 1, 2]), opened().rng("m"), logits=torch.ones(6, 2)
    )
    memory.delete({1})
    assert memory.y[: len(memory)].tolist() == [0, 2, 0, 2]
    assert memory.x[:, 0].tolist() == [1, 3, 4, 6, 0, 0]
    assert memory.kept["logits"].sum() == 8
    assert (memory.filled, memory.seen) == (4, 4)
    memory.add(torch.tensor([[9]]), torch.tensor([7]), opened().rng("m"), logits=torch.ones(1, 2))
    assert memory.y[: len(memory)].tolist() == [0, 2, 0, 2, 7]
    Reservoir(3).delete({1})


def test_l2_pulls_to_the_last_weights():
    learner = opened(classes=4)
    strategy = L2(l2_lambda=0.25)
    strategy.start(learner, Requests())
    assert strategy.around_adjust(learner, None) is None
    strategy.anchor = [p.detach() - 2 for p in learner.model.parameters()]
    for p in learner.model.parameters():
        p.grad = torch.ones_like(p)
    strategy.around_adjust(learner, None)(learner)
    assert all(torch.allclose(p.grad, torch.full_like(p, 2.0)) for p in learner.model.parameters())


@pytest.mark.parametrize("whole", [False, True])
def test_retraining_begins_from_the_initial_weights_and_sees_what_remains(whole):
    log = []
    strategy = watched(Retrain, log, whole=whole)
    _, found = run(strategy)
    first, model = log[0], strategy.initial
    assert all(torch.equal(p, q) for p, q in zip(first[1].parameters(), model.parameters(), strict=True))
    per_epoch = -(-(80 if whole else 20) // 16)
    begins = log[-10 * per_epoch]
    assert all(torch.equal(p, q) for p, q in zip(begins[1].parameters(), model.parameters(), strict=True))
    assert {label for batch, _, _ in log[-10 * per_epoch :] for label in batch.y.tolist()} == {0, 1}
    assert found[2]["forget 1"] == found[2]["forget 2"] == 0


def test_scrub_goes_away_and_stays():
    _, found = run(SCRUB(away=10, epochs=20, lr=0.1), epochs=3)
    assert found[0]["forget 1"] > 0.9
    assert found[1]["forget 1"] < 0.3
    assert found[1]["remaining"] > 0.9


def test_the_divergence_of_scrub_by_hand():
    teacher, logits = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    batch = Batch(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1), kept={"teacher": teacher})
    p = torch.tensor([torch.e, 1.0]) / (torch.e + 1)
    by_hand = 4 * float(p[0] * 1 - p[1] * 1)  # T^2 sum p (log p - log q), log p - log q = (1, -1) at T = 2
    assert float(SCRUB(temperature=2.0).divergence(batch, logits)) == pytest.approx(by_hand, abs=1e-5)


def test_scrub_whose_teacher_alone_speaks_does_not_move():
    """gamma 0 and no pass away: the network agrees with its teacher from the first step on."""
    learner, _ = run(SCRUB(gamma=0.0, away=0), requests=0)
    before = weights(learner)
    stream = Requests()
    stream.open(0)
    strategy = SCRUB(gamma=0.0, away=0)
    strategy.start(learner, stream.syllabus())
    learner.begin(stream[1])
    strategy.learn(learner, stream[1])
    assert torch.allclose(before, weights(learner), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [lambda: Remain(base=DERPP(), beta=0.3, lr=0.05), lambda: Remain(base=EWC(base=ER()), beta=0.3)],
    ids=["derpp", "ewc"],
)
def test_with_ascent_it_goes_on(make):
    check_resume(make, stream=Requests())
