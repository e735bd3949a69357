"""CoFiTune, CorDA, FRUGAL and GaLore: where and how they move weights, against few lines of their definitions."""

import pytest
import torch
from small import Net, Transformer, images, lesson, opened, syllabus, teach, weights

from clbench.errors import Mistake
from clbench.models import ViT
from clbench.modules import tensors
from clbench.optimizer import Followed, Moved
from clbench.strategies.baselines import Naive
from clbench.strategies.cofitune import CoFiTune, dropping, size_of
from clbench.strategies.corda import CorDA, least
from clbench.strategies.fpf import KFPF
from clbench.strategies.projected import Frugal, GaLore
from clbench.strategies.replay import ER
from clbench.strategies.sparse import S2FT
from clbench.strategies.subspace import GPM
from clbench.testing import check_resume

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]
SIX = ViT(patch=2, width=12, depth=6, heads=2)


def before_and_after(learner, strategy, lessons=LESSONS):
    strategy.start(learner, syllabus(sizes=[32, 32]))
    before = {name: t.detach().clone() for name, t in tensors(learner.model).items()}
    for experience in lessons:
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
    return before, {name: t.detach() for name, t in tensors(learner.model).items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def input_of(learner):
    return learner.encode(LESSONS[0].train.gather(torch.arange(8))[0])


# CoFiTune.


@pytest.mark.parametrize("options", [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": "adamw", "lr": 0.01}])
@pytest.mark.parametrize(("spec", "blocks"), [(SIX, (1, 2)), (Transformer(), (0,))])
def test_the_feed_forward_layers_of_the_second_quarter_train(spec, blocks, options):
    learner = opened(model=spec, batch=8, **options)
    found = moved(*before_and_after(learner, CoFiTune()))
    names = {f"body.blocks.{b}.mlp.fc{i}.{own}" for b in blocks for i in (1, 2) for own in ("weight", "bias")}
    assert found == names | {"head.weight", "head.bias"}
    assert all(p.requires_grad for p in learner.model.parameters())


def test_importance_is_of_the_standardised_gradients():
    found = size_of(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 1.0]).tanh())
    assert size_of(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_gates_are_factors_of_what_units_give():
    """The gradient by a gate is that by the output times the output, here of two passes without hooks."""
    learner = opened(model=Transformer(), batch=8)
    strategy = CoFiTune(probe_batches=1, dropout=0.5)
    strategy.start(learner, syllabus(sizes=[32, 32]))
    learner.begin(LESSONS[0])
    before = weights(learner)
    found = strategy.measure(learner, LESSONS[0])
    assert torch.equal(before, weights(learner))
    assert learner.flops.total > 0
    layer = learner.model.body.blocks[0].mlp.fc2
    learner.seed_globals("importance")
    batch, outs = next(learner.batches(LESSONS[0].train)), []

    def keep(module, given, out):
        out.retain_grad()
        outs.append(out)

    hook = layer.register_forward_hook(keep)
    with dropping(learner.model, 0.5):
        p, q = (learner(batch.x).softmax(1) for _ in range(2))
    hook.remove()
    (p * (p.log() - q.log())).sum().div(8).backward()
    expected = sum((out.grad * out.detach()).sum((0, 1)) for out in outs).abs()
    torch.testing.assert_close(found["body.blocks.0.mlp.fc2"], size_of(expected), rtol=1e-3, atol=1e-4)
    assert expected.max() > 0
    assert not learner.model.training


def test_a_step_is_smaller_by_the_importance_of_its_unit():
    learners = [opened(model=Transformer(), batch=32) for _ in range(2)]
    strategy = CoFiTune()
    soft, full = (
        before_and_after(learners[0], strategy, LESSONS[:1]),
        before_and_after(learners[1], Naive(), LESSONS[:1]),
    )
    for layer, importance in strategy.importance.items():
        for own in ("weight", "bias"):
            name = f"{layer}.{own}"
            step = full[1][name] - full[0][name]
            factor = (1 - importance).view(-1, *[1] * (step.ndim - 1))
            torch.testing.assert_close(soft[1][name] - soft[0][name], factor * step, rtol=1e-3, atol=1e-6)
    assert max(float(importance.max()) for importance in strategy.importance.values()) > 0.5


def test_a_unit_keeps_the_largest_importance(monkeypatch):
    given = iter([0.2, 0.7, 0.4])
    monkeypatch.setattr(
        CoFiTune, "measure", lambda self, *_: {layer: torch.full((1,), next(given)) for layer in self.layers[:1]}
    )
    strategy = CoFiTune()
    learner = opened(model=Transformer(), batch=8)
    monkeypatch.setattr(CoFiTune, "around_adjust", lambda self, learner, adjust: adjust)
    teach(learner, strategy, [*LESSONS, lesson(images([0, 1] * 16), 2)])
    assert float(strategy.importance["body.blocks.0.mlp.fc1"]) == pytest.approx(0.7)


def test_coarse_alone_is_its_base_on_these_layers():
    learners = [opened(model=Transformer(), batch=32) for _ in range(2)]
    coarse = before_and_after(learners[0], CoFiTune(soft=False), LESSONS[:1])[1]
    full = before_and_after(learners[1], Naive(), LESSONS[:1])[1]
    torch.testing.assert_close(coarse["body.blocks.0.mlp.fc1.weight"], full["body.blocks.0.mlp.fc1.weight"])


# CorDA.


def test_the_least_directions_of_what_the_inputs_ask_for():
    """W C = diag(6, 2, 1) by inputs of which the first comes most often: the least is the third, where W is largest."""
    w, c = torch.diag(torch.tensor([1.0, 1.0, 2.0])), torch.diag(torch.tensor([2.4, 0.5, 0.1])).double()
    a, b = least(w, 1, c)
    torch.testing.assert_close(b @ a, torch.diag(torch.tensor([0.0, 0.0, 2.0])).double())
    torch.testing.assert_close(b.norm(), torch.tensor(0.2).sqrt().double())
    a, b = least(w, 1)
    assert float((b @ a)[2, 2]) == pytest.approx(0.0)


def test_of_all_directions_they_are_the_weight():
    rng = torch.Generator().manual_seed(0)
    w, x = torch.randn(5, 4, generator=rng), torch.randn(4, 50, generator=rng).double()
    a, b = least(w, 4, x @ x.T, 0.01)
    torch.testing.assert_close((b @ a).float(), w)
    a, b = least(w, 2, x @ x.T)
    residual = w.double() - b @ a
    u, s, v = torch.linalg.svd(w.double() @ (x @ x.T) / (x @ x.T).diagonal().mean())
    torch.testing.assert_close(residual @ (x @ x.T) / (x @ x.T).diagonal().mean(), u[:, :2] * s[:2] @ v[:2])


@pytest.mark.parametrize("options", [{"momentum": 0.9, "weight_decay": 0.1}, {"optimizer": "adamw", "lr": 0.01}])
def test_parting_changes_no_answer_and_the_rest_stands_still(options):
    learner = opened(model=Transformer(), batch=8, **options)
    strategy = CorDA(rank=2)
    strategy.start(learner, syllabus(sizes=[32, 32]))
    x = input_of(learner)
    for experience in LESSONS:
        answer = learner(x)
        strategy.part(learner.model)
        torch.testing.assert_close(learner(x), answer)
        before = {name: t.detach().clone() for name, t in tensors(learner.model).items()}
        learner.begin(experience)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CorDA, "part", lambda self, model: None)
            strategy.learn(learner, experience)
        learner.end()
        found = moved(before, {name: t.detach() for name, t in tensors(learner.model).items()})
        assert found == {name for name in before if "lora" in name or name.startswith("head.")}


def test_inputs_are_summed_up_over_experiences():
    learner = opened(model=Net(), batch=8)
    strategy = CorDA(rank=2, samples=1000)
    teach(learner, strategy, LESSONS)
    x = torch.cat([learner.encode(one.train.gather(torch.arange(32))[0]).flatten(1) for one in LESSONS]).double()
    torch.testing.assert_close(strategy.inputs["body.1"], x.T @ x)


def test_more_directions_than_there_are():
    with pytest.raises(Mistake, match=r"strategy.rank=9: the smallest of these layers has 8 directions"):
        CorDA(rank=9).start(opened(), syllabus(sizes=[32]))


# FRUGAL and GaLore.


@pytest.mark.parametrize("strategy", [Frugal(density=1.0), Frugal(density=1.0, gap=1000)])
def test_frugal_of_all_columns_is_adamw(strategy):
    options = {"lr": 0.01, "weight_decay": 0.1, "schedule": "cosine", "clip": 0.5}
    learner, adamw = opened(batch=8, **options), opened(batch=8, optimizer="adamw", **options)
    teach(learner, strategy, LESSONS)
    teach(adamw, Naive(), LESSONS)
    torch.testing.assert_close(weights(learner), weights(adamw), rtol=1e-4, atol=1e-6)


def test_frugal_of_none_goes_by_sign():
    learner = opened(model=Net(), batch=32, lr=0.01)
    before, after = before_and_after(learner, Frugal(density=0.0, inactive=0.5), LESSONS[:1])
    steps = {round(abs(float(step)), 5) for step in (after["head.weight"] - before["head.weight"]).flatten()}
    assert steps <= {0.0, 0.005}
    assert 0.005 in steps


def test_frugal_draws_anew_after_a_gap():
    learner, seen = opened(model=Net(), batch=8), []

    class Noted(Frugal):
        def within(self, learner, moments, name, gradient):
            found = super().within(learner, moments, name, gradient)
            if name == "body.1.weight":
                seen.append(tuple(sorted(moments[name].basis.tolist())))
            return found

    teach(learner, Noted(gap=3, density=0.25), LESSONS)
    assert all(len(columns) == 4 for columns in seen)
    assert [seen[i] == seen[i + 1] for i in range(7)] == [True, True, False, False, True, True, False]


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_the_first_step_of_galore_is_the_sign_within_leading_directions(shape):
    learner = opened(model=Net(hidden=8 if shape == "wide" else 40), batch=32, lr=0.01)
    plain = opened(model=Net(hidden=8 if shape == "wide" else 40), batch=32, lr=1.0)
    before, after = before_and_after(learner, GaLore(rank=2, scale=0.5), LESSONS[:1])
    start, end = before_and_after(plain, Naive(), LESSONS[:1])
    gradient = start["body.1.weight"] - end["body.1.weight"]
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    expected = u[:, :2] @ (u[:, :2].T @ gradient).sign() if shape == "wide" else (gradient @ v[:2].T).sign() @ v[:2]
    torch.testing.assert_close(before["body.1.weight"] - after["body.1.weight"], 0.005 * expected, rtol=1e-2, atol=1e-5)


def test_galore_projects_anew_after_a_gap_and_keeps_its_moments():
    learner, seen = opened(model=Net(), batch=8, keep_optimizer=True), []

    class Noted(GaLore):
        def within(self, learner, moments, name, gradient):
            before = moments[name].first.clone() if name in moments else torch.zeros(2, 16)
            found = super().within(learner, moments, name, gradient)
            if name == "body.1.weight":
                seen.append((gradient.clone(), moments[name].basis, before, moments[name].first.clone()))
            return found

    strategy = Noted(gap=3, rank=2)
    teach(learner, strategy, LESSONS)
    assert [seen[i][1] is seen[i + 1][1] for i in range(7)] == [True, True, False, True, True, False, True]
    for gradient, basis, before, after in (seen[0], seen[3], seen[6]):
        torch.testing.assert_close(basis, torch.linalg.svd(gradient)[0][:, :2])
        torch.testing.assert_close(after, 0.9 * before + 0.1 * basis.T @ gradient)
    assert strategy.moments["body.1.weight"].steps == 8


def test_galore_remembers_less():
    learner = opened(model=Net(hidden=64), batch=8)
    strategy = GaLore(rank=2)
    teach(learner, strategy, LESSONS)
    held = strategy.moments["body.1.weight"]
    assert (held.basis.shape, held.first.shape) == ((16, 2), (2, 64))
    assert held.steps == 4


@pytest.mark.parametrize("kind", [Frugal, GaLore])
def test_phases_have_moments_of_their_own(kind):
    learner, strategy = opened(batch=8), kind(base=KFPF(memory_size=16, k=2, select="all", share=0.5))
    teach(learner, strategy, LESSONS)
    assert {held.steps for held in strategy.moments.values()} == {4}
    assert {held.steps for held in strategy.of_phase.values()} == {2}


def test_what_brings_back_what_gpm_takes_out_is_refused():
    with pytest.raises(Mistake, match=r"strategy\.base=fot"):
        GaLore(base=GPM()).start(opened(), syllabus(sizes=[32]))
    GaLore(base=ER()).start(opened(), syllabus(sizes=[32]))


def test_a_kept_optimizer_keeps_its_moments():
    learner = opened(batch=8, keep_optimizer=True)
    strategy = GaLore()
    teach(learner, strategy, LESSONS)
    assert {held.steps for held in strategy.moments.values()} == {8}


def test_around_what_puts_back_it_is_put_back():
    learner = opened(model=Transformer(), batch=8, weight_decay=0.1)
    found = moved(*before_and_after(learner, Frugal(S2FT(channels=0.1))))
    assert found == {"head.weight", "head.bias"} | {
        f"body.blocks.{b}.{path}.weight" for b in (0, 1) for path in ("mlp.fc2", "attn.proj")
    }


def test_the_outermost_rule_moves_and_the_inner_act_follows():
    learner, told = opened(), []
    optimizer = learner.new_optimizer(3)
    inner = Followed(Moved(optimizer, lambda: told.append("inner")), lambda: told.append("act"))
    Moved(inner, lambda: told.append("outer")).step()
    inner.step()
    assert told == ["outer", "act", "inner", "act"]
    assert optimizer.done == 2


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (lambda: CorDA(ER(), rank=4), Transformer()),
        (lambda: GaLore(ER(), gap=3, rank=2), None),
        (lambda: Frugal(S2FT(), gap=3), Transformer()),
    ],
    ids=["corda", "galore", "frugal of s2ft"],
)
def test_it_goes_on(make, model):
    check_resume(make, model=model)
