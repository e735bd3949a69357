"""Sparse tuning: exactly which entries move, and that no other does."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small import Net, Normed, Transformer, images, lesson, opened, syllabus, teach, vit_b16, weights

from clbench.errors import Mistake
from clbench.modules import tensors
from clbench.strategies.baselines import Naive
from clbench.strategies.plasticity import L2Init
from clbench.strategies.replay import ER
from clbench.strategies.sparse import LTSFT, S2FT, chosen, largest
from clbench.strategies.spt import SPT
from clbench.testing import check_resume

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]
HARD = [
    {"momentum": 0.9, "weight_decay": 0.1, "keep_optimizer": True},
    {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
]


@dataclass
class Recorder:
    """What each experience moved, and what the strategy said should."""

    moved: list[dict[str, Any]]
    masks: list[dict[str, Any]]
    low: list[set[str]]


def recorded(strategy, learner, monkeypatch, lessons=LESSONS):
    """Teach; note the masks of each experience, and where weights differ after it."""
    found = Recorder([], [], [])
    masked = type(strategy).masked

    def noted(self, learner, masks, whole=()):
        found.masks.append(dict(masks))
        found.low.append(set(whole))
        return masked(self, learner, masks, whole)

    monkeypatch.setattr(type(strategy), "masked", noted)
    strategy.start(learner, syllabus(sizes=[32, 32]))
    for experience in lessons:
        before = {name: t.detach().clone() for name, t in tensors(learner.model).items()}
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
        found.moved.append({name: t.detach() != before[name] for name, t in tensors(learner.model).items()})
    assert strategy.masks == strategy.anchors == {}
    assert all(p.requires_grad for p in learner.model.parameters())
    return found


def agree(moved, masks, whole=()):
    """Nothing moved that may not; of what may, the most part did."""
    for name, where in moved.items():
        if name.startswith("head.") or name in whole:
            assert where.any(), name
        else:
            allowed = masks.get(name, torch.zeros_like(where))
            assert not (where & ~allowed).any(), name
            assert where.sum() >= 0.9 * allowed.sum(), name


# S2FT.


@pytest.mark.parametrize("options", HARD, ids=["momentum", "adamw"])
def test_s2ft_moves_columns_of_drawn_channels_and_heads(monkeypatch, options):
    learner = opened(model=Transformer(), batch=8, **options)
    found = recorded(S2FT(channels=0.25, heads=0.3), learner, monkeypatch)
    for moved, masks in zip(found.moved, found.masks, strict=True):
        agree(moved, masks)
        for block in range(2):
            down, out = (masks[f"body.blocks.{block}.{path}.weight"] for path in ("mlp.fc2", "attn.proj"))
            assert down.shape == (12, 48)
            assert down.all(0).sum() == down.any(0).sum() == 12
            columns = out.all(0).nonzero().flatten()
            assert len(columns) == 4
            assert (columns // 4).unique().numel() == 1
        assert set(masks) == {f"body.blocks.{b}.{p}.weight" for b in (0, 1) for p in ("mlp.fc2", "attn.proj")}
    assert any(not torch.equal(found.masks[0][name], found.masks[1][name]) for name in found.masks[0])


def test_s2ft_may_keep_its_draw(monkeypatch):
    found = recorded(S2FT(redraw=False, channels=0.25), opened(model=Transformer(), batch=8), monkeypatch)
    assert all(torch.equal(found.masks[0][name], found.masks[1][name]) for name in found.masks[0])


def test_a_share_is_one_at_least_and_none_is_none():
    rng = np.random.default_rng(0)
    assert [int(chosen(size, share, rng).sum()) for size, share in ((3, 0.052), (48, 0.02), (48, 0.0), (5, 1.0))] == [
        1, 1, 0, 5,
    ]  # fmt: skip


def test_without_channels_and_heads_the_head_alone_trains(monkeypatch):
    found = recorded(S2FT(channels=0.0, heads=0.0), opened(model=Transformer(), batch=8), monkeypatch)
    assert {name for name, where in found.moved[0].items() if where.any()} == {"head.weight", "head.bias"}


def test_a_step_of_what_is_drawn_is_that_step_of_the_base(monkeypatch):
    learners = [opened(model=Transformer(), batch=32) for _ in range(2)]
    found = recorded(S2FT(channels=0.5, heads=0.5), learners[0], monkeypatch, LESSONS[:1])
    teach(learners[1], Naive(), LESSONS[:1])
    sparse, full = (tensors(learner.model) for learner in learners)
    for name, mask in found.masks[0].items():
        torch.testing.assert_close(sparse[name][mask], full[name][mask])


def test_a_penalty_around_it_moves_nothing_else():
    learner = opened(model=Transformer(), batch=8)
    strategy = L2Init(S2FT(channels=0.25), l2_lambda=0.1)
    strategy.start(learner, syllabus(sizes=[32, 32]))
    before = tensors(learner.model)["body.blocks.0.mlp.fc1.weight"].detach().clone()
    teach(learner, strategy, LESSONS)
    assert torch.equal(before, tensors(learner.model)["body.blocks.0.mlp.fc1.weight"])


# LT-SFT.


def test_the_largest_of_all():
    values = {"a": torch.tensor([[3.0, 1.0], [0.0, 5.0]]), "b": torch.tensor([5.0, 4.0])}
    found = largest(values, 0.5)
    assert found["a"].tolist() == [[False, False], [False, True]]
    assert found["b"].tolist() == [True, True]
    assert not any(mask.any() for mask in largest(values, 0.0).values())


@pytest.mark.parametrize("options", HARD, ids=["momentum", "adamw"])
@pytest.mark.parametrize("spec", [Transformer(), Net()])
def test_lt_sft_moves_what_plain_training_moves_most(monkeypatch, spec, options):
    learner, plain = (opened(model=spec, batch=8, epochs=2, **options) for _ in range(2))
    found = recorded(LTSFT(share=0.1), learner, monkeypatch)
    agree(found.moved[0], found.masks[0])
    agree(found.moved[1], found.masks[1])
    before = {name: t.detach().clone() for name, t in plain.model.named_parameters()}
    teach(plain, Naive(), LESSONS[:1])
    changes = {
        name: (p.detach() - before[name]).abs() for name, p in plain.model.named_parameters() if "head" not in name
    }
    flat = torch.cat([change.flatten() for change in changes.values()]).sort(descending=True).values
    least = flat[round(0.1 * len(flat)) - 1]
    for name, change in changes.items():
        assert torch.equal(found.masks[0][name], change >= least)


def test_of_all_weights_the_second_phase_is_the_base():
    both, base = (opened(model=Normed(), batch=8, epochs=2, momentum=0.9) for _ in range(2))
    teach(both, LTSFT(ER(memory_size=10), share=1.0), LESSONS[:1])
    strategy = ER(memory_size=10)
    strategy.start(base, syllabus(sizes=[32]))
    base.step = 8
    base.begin(LESSONS[0])
    strategy.learn(base, LESSONS[0])
    assert torch.equal(weights(both), weights(base))
    assert all(map(torch.equal, tensors(both.model).values(), tensors(base.model).values()))


def test_the_first_phase_is_paid_for():
    one, two = (opened(model=Net(), batch=8) for _ in range(2))
    teach(one, Naive(), LESSONS)
    teach(two, LTSFT(share=1.0), LESSONS)
    assert two.flops.total == 2 * one.flops.total
    assert two.step == 2 * one.step


# SPT.


def test_sensitivity_is_the_sum_of_squared_gradients_of_batches():
    learner = opened(model=Net(), batch=8)
    strategy = SPT(probe_batches=3)
    strategy.start(learner, syllabus(sizes=[32, 32]))
    before = weights(learner)
    learner.begin(LESSONS[0])
    found = strategy.sensitivity(learner, LESSONS[0])
    total = {name: torch.zeros_like(s) for name, s in found.items()}
    for _, batch in zip(range(3), learner.batches(LESSONS[0].train), strict=False):
        learner.model.zero_grad()
        learner.criterion(learner(batch.x), batch.y).backward()
        for name in total:
            total[name] += learner.model.get_parameter(name).grad ** 2
    assert set(found) == {"body.1.weight", "body.1.bias"}
    for name in total:
        torch.testing.assert_close(found[name], total[name])
    assert torch.equal(before, weights(learner))
    assert learner.flops.total > 0


def spt(**options):
    strategy = SPT(**options)
    strategy.layers = {"body.low": 1, "body.few": 1, "body.qkv": 3}
    return strategy


def test_what_is_chosen_is_counted_as_what_trains():
    """low: 6 of its 16 are among the most sensitive, LoRA of rank 1 costs 8 and begins at 4; few has one; the long
    vector has 3 of 10, enough; the short one 1 of 10, too few.
    """
    low, few, conv = torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(2, 2, 2, 2)
    low.view(-1)[:6] = torch.arange(10.0, 16.0)
    few[1, 2], conv[0, 1, 0, 1] = 20.0, 30.0
    long, short = torch.zeros(10), torch.zeros(10)
    long[2:5], short[7] = 9.0, 8.0
    given = {"body.low.weight": low, "body.few.weight": few, "body.conv.weight": conv, "body.a": long, "body.b": short}
    size = 16 * 3 + 20
    entries, layers = spt(rank=1, alpha=2.0, beta=5.0, share=20 / size + 1e-9).choose(given)
    assert layers == [("body.low", 0)]
    assert set(entries) == {"body.few.weight", "body.conv.weight", "body.a"}
    assert torch.equal(entries["body.few.weight"], few > 0)
    assert torch.equal(entries["body.conv.weight"], conv > 0)
    assert entries["body.a"].all()
    entries, layers = spt(rank=1, alpha=2.0, beta=5.0, share=19 / size + 1e-9).choose(given)
    assert layers == [("body.low", 0)]
    assert set(entries) == {"body.few.weight", "body.conv.weight"}
    entries, layers = spt(rank=1, alpha=2.0, beta=5.0, share=9 / size + 1e-9).choose(given)
    assert layers == []
    assert {name: int(mask.sum()) for name, mask in entries.items()} == {
        "body.low.weight": 3,
        "body.few.weight": 1,
        "body.conv.weight": 1,
    }
    assert spt(share=0.0).choose(given) == ({}, [])


def test_query_key_and_value_are_matrices_of_their_own():
    """Of the query 3 of 16 are among the most sensitive, of the key 2, of the value none; LoRA of rank 1 begins at 3.
    Of the biases those of the value train whole.
    """
    weight, bias = torch.zeros(12, 4), torch.zeros(12)
    weight[0, :3] = weight[5, 1:3] = 9.0
    bias[8:10] = 8.0
    entries, low = spt(rank=1, alpha=8 / 3, beta=2.0, share=14 / 60 + 1e-9).choose(
        {"body.qkv.weight": weight, "body.qkv.bias": bias}
    )
    assert low == [("body.qkv", 0)]
    assert set(entries) == {"body.qkv.weight", "body.qkv.bias"}
    assert entries["body.qkv.weight"].nonzero().tolist() == [[5, 1], [5, 2]]
    assert entries["body.qkv.bias"].nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_numbers_of_a_vit_b16():
    """LoRA of rank 8 for each of query, key and value: 8 (768 + 768), from a tenth of that many entries on."""
    model, strategy = vit_b16(), SPT()
    strategy.start(SimpleNamespace(model=model, seed=0), syllabus(sizes=[32]))
    name = "body.blocks.3.attn.qkv"
    sizes = [model.get_parameter(f"{name}.{ab}").numel() for ab in ("lora_a", "lora_b")]
    assert (strategy.layers[name], sum(sizes)) == (3, 3 * 12_288)
    mask = torch.zeros(768 * 768, dtype=torch.bool)
    found = [
        strategy.worth(f"{name}.weight", mask.index_fill(0, torch.arange(n), True).view(768, 768)) for n in (1228, 1229)
    ]
    assert found == [(1228, False), (12_288, True)]


@pytest.mark.parametrize("options", HARD, ids=["momentum", "adamw"])
def test_spt_moves_what_it_chose_for_each_experience(monkeypatch, options):
    learner = opened(model=Transformer(), batch=8, **options)
    found = recorded(SPT(share=0.05, rank=1, alpha=20.0, probe_batches=4), learner, monkeypatch)
    parts = []
    for moved, masks in zip(found.moved, found.masks, strict=True):
        agree(moved, masks)
        trains = sum(int(mask.sum()) for mask in masks.values())
        size = sum(p.numel() for name, p in learner.model.named_parameters() if "blocks" in name and "lora" not in name)
        assert 0.03 * size < trains <= 0.05 * (size + 24)
        assert any(name.endswith("lora_b") for name in masks)
        assert not any("embed" in name for name in masks)
        parts += [len(mask.flatten(1).any(1).unique()) for name, mask in masks.items() if "qkv.lora" in name]
    assert 2 in parts, "of no fused layer some thirds had LoRA and others not"
    assert any(not torch.equal(mask, found.masks[1].get(name, ~mask)) for name, mask in found.masks[0].items())


def test_what_is_never_chosen_stays_at_zero():
    learner = opened(model=Transformer(), batch=8)
    teach(learner, SPT(share=0.0), LESSONS)
    assert all(not p.any() for name, p in learner.model.named_parameters() if name.endswith("lora_b"))


def test_spt_without_a_share_is_a_linear_probe(monkeypatch):
    found = recorded(SPT(share=0.0), opened(model=Transformer(), batch=8), monkeypatch)
    assert {name for name, where in found.moved[0].items() if where.any()} == {"head.weight", "head.bias"}


def test_s2ft_needs_attention():
    with pytest.raises(Mistake, match="This needs a vision transformer"):
        S2FT().start(opened(), syllabus(sizes=[32]))


@pytest.mark.parametrize("kind", [LTSFT, SPT])
def test_a_body_without_weights_has_none_to_choose_from(kind):
    with pytest.raises(Mistake, match="weights of the body, and of this model's none trains"):
        kind().start(opened(model=Net(hidden=0)), syllabus(sizes=[32]))


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (lambda: S2FT(ER()), Transformer()),
        (lambda: LTSFT(ER()), None),
    ],
    ids=["s2ft of er", "lt_sft of er"],
)
def test_it_goes_on(make, model):
    check_resume(make, model=model)
