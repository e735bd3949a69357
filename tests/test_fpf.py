"""FPF and k-FPF: when phases come, what they move, what they cost, and that they help."""

import pytest
import torch
from small import Linear, Normed, images, lesson, opened, syllabus, teach, weights
from torch import nn

from clbench.batch import Batch
from clbench.config import resolve
from clbench.errors import Mistake
from clbench.memory import Memory
from clbench.modules import groups
from clbench.strategies.baselines import Joint, Naive
from clbench.strategies.bic import BiC
from clbench.strategies.distillation import DER
from clbench.strategies.fpf import FPF, KFPF, Scores
from clbench.strategies.icarl import ICaRL
from clbench.strategies.lwf import LwF
from clbench.strategies.prototypes import NCM
from clbench.strategies.replay import ER, GDumb
from clbench.strategy import memory_of
from clbench.sweep import check
from clbench.testing import check_resume

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]


def state(learner):
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def moved(before, after):
    """The module groups of what differs."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def filled(count=16, **kept):
    memory = Memory(count)
    data = images([0, 1, 2, 3] * (count // 4))
    x, y = data.gather(torch.arange(count))
    memory.add(x, y, None, **kept)
    return memory


def ready(select, model=None, **options):
    """A k-FPF before its stream, and its learner."""
    learner = opened(model=model or Normed(), batch=8)
    strategy = KFPF(select=select, **options)
    strategy.start(learner, syllabus(sizes=[32, 32]))
    return strategy, learner


# When.


@pytest.mark.parametrize(
    ("sizes", "k", "expected"),
    [
        ([32, 32], 2, [4, 8]),
        ([32, 32], None, [4, 8]),
        ([32, 32], 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        ([32, 32], 3, [3, 5, 8]),
        ([33, 20], 7, [1, 2, 3, 5, 6, 7, 8]),
        ([8], 1, [1]),
        ([100, 3, 9], 5, [3, 6, 10, 13, 16]),
    ],
)
def test_phases_follow_step_round_iN_over_k(monkeypatch, sizes, k, expected):
    seen = []
    monkeypatch.setattr(KFPF, "fine_tune", lambda self, learner, memory, worth: seen.append((self.steps, worth)))
    lessons = [lesson(images([0, 1, 2] * (size // 3) + [3] * (size % 3)), i) for i, size in enumerate(sizes)]
    teach(opened(batch=8), KFPF(k=k), lessons)
    assert [steps for steps, _ in seen] == expected
    assert sum(worth for _, worth in seen) == pytest.approx(sum(-(-size // 8) for size in sizes))


def test_phases_follow_every_so_many_steps(monkeypatch):
    seen = []
    monkeypatch.setattr(KFPF, "fine_tune", lambda self, learner, memory, worth: seen.append((self.steps, worth)))
    teach(opened(batch=8), KFPF(every=3), LESSONS)
    assert seen == [(3, 3.0), (6, 3.0)]


@pytest.mark.parametrize(("when", "expected"), [("end", [8]), ("each", [4, 4])])
def test_fpf_comes_at_the_end_or_after_each(monkeypatch, when, expected):
    seen = []
    monkeypatch.setattr(FPF, "fine_tune", lambda self, learner, memory, worth: seen.append(worth))
    teach(opened(batch=8), FPF(ER(), when=when), LESSONS)
    assert seen == expected


# What moves.


@pytest.mark.parametrize("select", ["head", ["fc1", "head"], ["bn.weight", "bn.bias"], "bn", "all", "preset"])
def test_only_the_chosen_modules_move(select):
    strategy, learner = ready(select, distill=0.0)
    there = groups(learner.model)
    wanted = {"all": list(there), "preset": ["bn", "head"]}.get(
        str(select), [select] if isinstance(select, str) else select
    )
    before = state(learner)
    strategy.fine_tune(learner, filled(), 8)
    chosen = {
        name
        for group, names in there.items()
        if any(group == w or group.startswith(f"{w}.") for w in wanted)
        for name in names
    }
    changed = {name for name in moved(before, state(learner)) if not name.endswith("num_batches_tracked")}
    assert changed == chosen
    assert all(p.requires_grad for p in learner.model.parameters())
    assert not learner.model.training


def test_running_statistics_alone_are_the_mean_over_batches_of_memory():
    strategy, learner = ready(["bn.mean", "bn.var"], share=1.0)
    before, memory = state(learner), filled(8)
    inputs = []
    learner.model.body.bn1.register_forward_hook(lambda module, given, out: inputs.append(given[0]))
    strategy.batch = 8
    strategy.fine_tune(learner, memory, 3)
    stats = learner.model.body.bn1
    torch.testing.assert_close(stats.running_mean, torch.stack([x.mean(0) for x in inputs]).mean(0))
    torch.testing.assert_close(stats.running_var, torch.stack([x.var(0) for x in inputs]).mean(0))
    assert len(inputs) == 3
    assert stats.momentum == 0.1
    names = {name for name in moved(before, state(learner)) if not name.endswith("num_batches_tracked")}
    assert names == {f"body.bn{i}.running_{what}" for i in (1, 2) for what in ("mean", "var")}


def test_a_phase_of_one_step_is_a_gradient_step_at_the_full_rate():
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    strategy, learner = ready("head", Linear(weight), rate=0.5, share=0.125, batch=16)
    memory = filled()
    x = learner.encode(memory.x).flatten(1)
    p = (x @ weight.T).softmax(1) - nn.functional.one_hot(memory.y, 4)
    strategy.fine_tune(learner, memory, 8)
    torch.testing.assert_close(learner.model.head.weight.detach(), weight - 0.5 * p.T @ x / 16)


def test_the_optimiser_of_the_stream_stands_still():
    learner = opened(model=Normed(), batch=8, momentum=0.9)
    strategy = KFPF(select="head")
    strategy.start(learner, syllabus(sizes=[32, 32]))
    learner.begin(LESSONS[0])
    learner.fit(learner.batches(LESSONS[0].train), strategy.loss)
    before, buffers = (
        state(learner),
        [learner.optim.torch.state[p]["momentum_buffer"].clone() for p in learner.model.parameters()],
    )
    strategy.fine_tune(learner, filled(), 80)
    after = [learner.optim.torch.state[p]["momentum_buffer"] for p in learner.model.parameters()]
    assert all(map(torch.equal, buffers, after))
    assert moved(before, state(learner)) == {"head.weight", "head.bias"}


def test_distillation_is_to_the_logits_that_memory_keeps():
    strategy, learner = ready("head", distill=0.5)
    kept = torch.ones(8, 4)
    data = images([0, 1] * 4)
    raw, y = data.gather(torch.arange(8))
    x = learner.encode(raw)
    logits = learner(x)
    loss = strategy.phase_loss(learner, Batch(x, y, raw, kept={"logits": kept}))
    expected = nn.functional.cross_entropy(logits, y) + 0.5 * ((logits - kept) ** 2).mean()
    torch.testing.assert_close(loss, expected)


def test_logits_are_kept_for_distillation_alone():
    for distill, names in ((0.5, {"logits"}), (0.0, set())):
        strategy = teach(opened(batch=8), KFPF(distill=distill), LESSONS)
        assert set(strategy.memory.kept) == names


# At no share it is its base.


@pytest.mark.parametrize(
    ("wrapped", "base"),
    [(KFPF(share=0.0), Naive()), (FPF(ER(), share=0.0), ER()), (FPF(DER(), share=0.0, when="each"), DER())],
    ids=["kfpf", "fpf(er)", "fpf(der)"],
)
def test_without_fine_tuning_it_is_its_base(wrapped, base):
    one, other = opened(batch=8), opened(batch=8)
    teach(one, wrapped, LESSONS)
    teach(other, base, LESSONS)
    assert torch.equal(weights(one), weights(other))


def test_until_its_phase_fpf_is_its_base():
    one, other = opened(batch=8), opened(batch=8)
    teach(one, FPF(ER()), [LESSONS[0], LESSONS[1]])
    teach(other, ER(), [LESSONS[0], LESSONS[1]])
    body = [name for name in state(one) if not name.startswith("head")]
    assert all(torch.equal(state(one)[name], state(other)[name]) for name in body)
    assert not torch.equal(weights(one), weights(other))


# Memory.


def test_fpf_uses_the_memory_of_its_base_and_else_one_of_its_own():
    er = FPF(ER(memory_size=10))
    teach(opened(batch=8), er, LESSONS)
    assert memory_of(er) is er.base.memory
    assert not hasattr(er, "memory")
    naive = FPF(Naive(), memory_size=10)
    teach(opened(batch=8), naive, LESSONS)
    assert (naive.memory.size, naive.memory.filled, naive.memory.seen) == (10, 10, 64)
    with pytest.raises(Mistake, match=r"set strategy\.base\.memory_size"):
        teach(opened(batch=8), FPF(ER(), memory_size=10), LESSONS)


def test_fpf_of_fpf_uses_the_innermost_memory():
    strategy = FPF(FPF(Naive(), memory_size=10))
    teach(opened(batch=8), strategy, LESSONS)
    assert memory_of(strategy) is strategy.base.memory


# Cost.


@pytest.mark.parametrize("select", ["head", ["bn", "head"], "all", ["bn.mean", "bn.var"]])
def test_at_equal_compute_every_selection_costs_the_same(select):
    plain, learner = opened(model=Normed(), batch=8), opened(model=Normed(), batch=8)
    lessons = [lesson(images([0, 1, 2, 3] * 64), i) for i in range(2)]
    teach(plain, Naive(), lessons)
    teach(learner, KFPF(select=select, share=0.25, share_of="compute"), lessons)
    assert learner.flops.total / plain.flops.total == pytest.approx(1.25, rel=0.02)


def test_a_share_of_steps_is_one_of_steps():
    learner = opened(batch=8)
    teach(learner, KFPF(share=0.5, select="head"), LESSONS)
    assert learner.step == 8 + 4


# Scores.


def test_scores_choose_what_moves_more_across_than_within():
    scores = Scores(2)
    scores.within = [{"fc1": 1.0, "bn.mean": 1.0, "head": 1.0}, {"fc1": 3.0, "bn.mean": 1.0, "head": 1.0}]
    scores.across = [{"fc1": 2.0, "bn.mean": 5.0, "head": 0.5}]
    scores.left = 0
    assert scores.ready
    assert scores.above(1.0) == ["bn.mean", "head"]
    assert scores.above(0.1) == ["fc1", "bn.mean", "head"]


def test_scores_are_of_plain_training_alone():
    learner = opened(batch=8)
    strategy = KFPF(select="score", k=2)
    teach(learner, strategy, LESSONS)
    assert (len(strategy.scores.within), len(strategy.scores.across)) == (8, 1)
    assert strategy.scores.ready
    assert "head" in strategy.modules


# Mistakes.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"strategy": "kfpf", "strategy.k": 10**6}, r"strategy.k=1000000: .* the stream has \d+ steps"),
        ({"strategy": "kfpf", "strategy.k": 2, "strategy.every": 3}, r"k=2 strategy.every=3: one says what the other"),
        ({"strategy": "kfpf", "strategy.select": "heads"}, r"no module group named 'heads'. Did you mean 'head'\?"),
        ({"strategy": "fpf", "strategy.select": ["bn", "head"]}, r"no module group named 'bn'"),
        ({"strategy": "fpf", "strategy.base": "er", "strategy.memory_size": 5}, r"set strategy.base.memory_size"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(words, line):
    with pytest.raises(Mistake, match=line):
        check(resolve({"stream": "toy", "model": "mlp", **words}))


# The contract.


@pytest.mark.parametrize(
    "make",
    [
        lambda: KFPF(k=7, distill=0.2),
        lambda: KFPF(every=5, select="score"),
        lambda: KFPF(select=["bn.mean", "bn.var"]),
        lambda: FPF(ER(), select="score"),
        lambda: FPF(DER(), when="each", share_of="compute"),
        lambda: FPF(FPF(Naive())),
        lambda: FPF(Joint()),
        lambda: FPF(GDumb(epochs=3)),
    ],
    ids=["kd", "every and score", "statistics", "fpf(er)", "fpf(der)", "fpf(fpf)", "fpf(joint)", "fpf(gdumb)"],
)
def test_it_goes_on(make):
    check_resume(make)


@pytest.mark.parametrize(
    "base", [ICaRL(memory_size=8), BiC(memory_size=16), NCM(memory_size=16)], ids=lambda b: type(b).__name__
)
def test_what_answers_need_is_of_the_weights_after_the_phase(base):
    learner, strategy = opened(model=Normed(), batch=8), FPF(base=base, select="all", share=2.0, rate=0.5)
    teach(learner, strategy, LESSONS)
    x = learner.encode(LESSONS[0].train.gather(torch.arange(8))[0])
    with torch.no_grad():
        said = strategy.predict(learner, x)
        base.settle(learner)
        assert torch.equal(strategy.predict(learner, x), said)


@pytest.mark.parametrize("base", [ICaRL(memory_size=8), BiC(memory_size=16)], ids=lambda b: type(b).__name__)
def test_the_network_that_the_next_experience_knows_is_the_one_after_the_phase(base):
    learner = opened(model=Normed(), batch=8)
    teach(learner, FPF(base=base, when="each", select="all", share=2.0, rate=0.5), LESSONS)
    assert torch.equal(*(torch.cat([p.flatten() for p in m.parameters()]) for m in (base.teacher, learner.model)))


@pytest.mark.parametrize("base", [LwF(), ICaRL(memory_size=8)], ids=lambda b: type(b).__name__)
def test_scores_are_of_the_steps_of_the_experience(base):
    """Not of a warm-up's, and of all where memory makes the lesson longer."""
    strategy = FPF(base=base, select="score", when="each")
    teach(opened(batch=4), strategy, LESSONS)
    assert len(strategy.scores.across) == 1
    assert len(strategy.scores.within) == 8 + (10 if isinstance(base, ICaRL) else 8)
    assert all(moved["1"] > 0 for moved in strategy.scores.within)


def test_scores_need_two_experiences():
    with pytest.raises(Mistake, match=r"^strategy.score_tasks=1: sensitivity is formed of"):
        ready("score", score_tasks=1)
