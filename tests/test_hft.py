"""Half fine-tuning: which half is drawn, that it alone moves, bit for bit, and around what."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from small import Normed, images, lesson, opened, syllabus, teach, weights

from clbench.data import Data, Source
from clbench.learner import Learner
from clbench.looks import Looks
from clbench.models import CNN, MLP, ConvBN, ResNet18, ViT
from clbench.modules import tensors
from clbench.pretrained import ViTT6
from clbench.strategies.baselines import Naive
from clbench.strategies.distillation import DER
from clbench.strategies.fpf import FPF, KFPF
from clbench.strategies.hft import HFT, Part, draw, parts, shared
from clbench.strategies.replay import ER
from clbench.strategies.tuners import LoRA
from clbench.strategy import Around
from clbench.stream import Stream, Syllabus
from clbench.testing import check_resume
from clbench.transform import ImageTransform

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]
SMALL_VIT = ViT(patch=2, width=12, depth=4, heads=2)


def drawn(model, granularity="category", ratio=0.5, seed=0):
    return draw(parts(model), granularity, ratio, np.random.default_rng(seed))


def build(spec, shape=(1, 4, 4)):
    return spec.build(shape, 4)


def size(model, chosen, kind=""):
    """Parameters in parts of a kind."""
    own = {name: t.numel() for name, t in model.named_parameters()}
    return sum(
        own.get(name, 0) // (1 if part.slice is None else 3)
        for part in chosen
        if part.kind.startswith(kind)
        for name in part.names
    )


# Which half.


@pytest.mark.parametrize("seed", range(5))
def test_of_a_transformer_half_of_each_kind_in_each_block(seed):
    model = build(SMALL_VIT)
    found = drawn(model, seed=seed)
    for i in range(4):
        block = f"body.blocks.{i}"
        here = [part for part in found if part.block == block]
        attention = [part for part in here if part.kind == "attention"]
        assert len(attention) == 2
        assert {part.names[0] for part in attention} <= {f"{block}.attn.qkv.weight", f"{block}.attn.proj.weight"}
        for kind, names in (("linear", ["mlp.fc1", "mlp.fc2"]), ("normalisation", ["norm1", "norm2"])):
            (one,) = (part for part in here if part.kind == kind)
            assert one.names in [(f"{block}.{name}.weight", f"{block}.{name}.bias") for name in names]
    assert len(found) == 16
    for kind in ("attention", "normalisation"):
        assert 2 * size(model, found, kind) == size(model, parts(model), kind)
    always = set(tensors(model)) - {name for part in parts(model) for name in part.names}
    assert always == {
        "body.pos_embed", "body.patch_embed.proj.weight", "body.patch_embed.proj.bias", "body.norm.weight",
        "body.norm.bias", "head.weight", "head.bias",
    }  # fmt: skip


def test_every_half_of_attention_can_be_drawn():
    model = build(ViT(patch=2, width=12, depth=1, heads=2))
    seen = {
        tuple(sorted(str(part.slice) for part in drawn(model, seed=seed) if part.kind == "attention"))
        for seed in range(60)
    }
    assert seen == {("0", "1"), ("0", "2"), ("1", "2"), ("0", "None"), ("1", "None"), ("2", "None")}


@pytest.mark.parametrize("seed", range(5))
def test_of_a_residual_block_one_convolution_and_one_normalisation(seed):
    model = build(ResNet18(width=4), (1, 8, 8))
    found = drawn(model, seed=seed)
    for stage in range(1, 5):
        for i in range(2):
            block = f"body.stage{stage}.{i}"
            here = {part.kind: part.names for part in found if part.block == block and part.kind != "shortcut"}
            assert here["convolution"] in [(f"{block}.conv{n}.weight",) for n in (1, 2)]
            norms = [f"{block}.bn{n}" for n in (1, 2)]
            ends = ("weight", "bias", "running_mean", "running_var")
            assert here["normalisation"] in [tuple(f"{norm}.{end}" for end in ends) for norm in norms]
    shortcuts = [part for part in found if part.kind == "shortcut"]
    assert len(shortcuts) in (1, 2)
    assert all(len(part.names) == 5 for part in shortcuts)
    assert not any(name.startswith(("body.stem", "head")) for part in parts(model) for name in part.names)


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (MLP(), (1, 4, 4), {"linear": [1]}),
        (MLP(depth=3), (1, 4, 4), {"linear": [1, 2]}),
        (CNN(), (1, 16, 16), {"convolution": [1], "linear": [0, 1]}),
        (ConvBN(4), (1, 8, 8), {"convolution": [1, 2], "normalisation": [1, 2]}),
    ],
)
def test_of_a_plain_stack_half_of_the_layers_of_each_kind(spec, shape, expected):
    """An odd one out trains by a coin."""
    model = build(spec, shape)
    counts: dict[str, set[int]] = {kind: set() for kind in expected}
    for seed in range(20):
        found = [part.kind for part in drawn(model, seed=seed)]
        assert set(found) <= set(expected)
        for kind in expected:
            counts[kind].add(found.count(kind))
    assert {kind: sorted(some) for kind, some in counts.items()} == expected


def test_a_layer_is_a_whole_block_and_a_model_is_halved_regardless():
    model = build(SMALL_VIT)
    assert len({part.block for part in drawn(model, "layer")}) == 2
    assert len(drawn(model, "layer")) == 2 * 8
    assert len(drawn(model, "model")) == 4 * 8 / 2
    assert len({len([p for p in drawn(model, "model", seed=s) if p.block == "body.blocks.0"]) for s in range(9)}) > 1
    assert len(drawn(build(ConvBN(4), (1, 8, 8)), "layer")) == 3


def test_a_share_that_does_not_come_out_even_holds_over_all_pools():
    """Three feed-forward matrices a block: 2 in a random half of the blocks, 1 in the others, as the paper has it."""
    seen = set()
    for seed in range(20):
        found = shared([[(block, i) for i in range(3)] for block in range(4)], 0.5, np.random.default_rng(seed))
        counts = [sum(b == block for b, _ in found) for block in range(4)]
        assert sorted(counts) == [1, 1, 2, 2]
        seen.add(tuple(counts))
    assert len(seen) > 3


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_the_ratio_is_what_trains(ratio):
    model = build(SMALL_VIT)
    assert len(drawn(model, ratio=ratio)) == round(ratio * len(parts(model)))


# What moves.


def halves(monkeypatch):
    """The draws, as they are made."""
    seen: list[set[Part]] = []

    def noted(*given):
        seen.append(draw(*given))
        return seen[-1]

    monkeypatch.setattr("clbench.strategies.hft.draw", noted)
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.01, "keep_optimizer": True},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "keep_optimizer": True},
        {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1, "clip": 0.1},
    ],
    ids=["plain", "momentum", "adamw", "adam"],
)
@pytest.mark.parametrize(
    ("spec", "shape"), [(SMALL_VIT, (1, 4, 4)), (ResNet18(width=4), (1, 8, 8)), (Normed(), (1, 4, 4))]
)
def test_the_drawn_half_moves_and_nothing_else_does(monkeypatch, spec, shape, options):
    seen = halves(monkeypatch)
    learner = opened(model=spec, side=shape[1], batch=8, **options)
    strategy = HFT()
    strategy.start(learner, syllabus(sizes=[32, 32]))
    lessons = [lesson(images([0, 1] * 16, shape[1]), 0), lesson(images([2, 3] * 16, shape[1]), 1)]
    for experience in lessons:
        before = {name: t.detach().clone() for name, t in tensors(learner.model).items()}
        learner.begin(experience)
        strategy.learn(learner, experience)
        learner.end()
        moved = {name: t.detach() != before[name] for name, t in tensors(learner.model).items()}
        for part in parts(learner.model):
            for name in part.names:
                rows = moved[name] if part.slice is None else moved[name].chunk(3)[part.slice]
                assert bool(rows.any()) == (part in seen[-1]), (part, name)
        within = {name for part in parts(learner.model) for name in part.names}
        assert all(moved[name].any() for name in moved if name not in within)
        assert all(p.requires_grad for p in learner.model.parameters())
        assert strategy.held == {}
    assert len(seen) == 2
    assert seen[0] != seen[1]


def test_a_step_of_the_half_is_that_step_of_the_base(monkeypatch):
    """What is drawn moves in the first step as it would if all did."""
    seen = halves(monkeypatch)
    learners = [opened(model=SMALL_VIT, batch=32) for _ in range(2)]
    for learner, strategy in zip(learners, (HFT(), Naive()), strict=True):
        teach(learner, strategy, LESSONS[:1])
    half, full = (tensors(learner.model) for learner in learners)
    for part in seen[0]:
        for name in part.names:
            chunk = (lambda t: t) if part.slice is None else (lambda t, third=part.slice: t.chunk(3)[third])
            torch.testing.assert_close(chunk(half[name]), chunk(full[name]))


def test_each_epoch_has_a_half_of_its_own(monkeypatch):
    seen = halves(monkeypatch)
    learner = opened(model=SMALL_VIT, batch=16, epochs=3)
    teach(learner, HFT(redraw="epoch"), LESSONS)
    assert len(seen) == 6
    assert all(a != b for a, b in pairwise(seen))
    assert all(p.requires_grad for p in learner.model.parameters())


@pytest.mark.parametrize("granularity", ["category", "layer", "model"])
@pytest.mark.parametrize("redraw", ["experience", "epoch"])
def test_a_ratio_of_1_is_the_base(granularity, redraw):
    def ends(strategy):
        learner = opened(model=SMALL_VIT, batch=8, epochs=2, momentum=0.9)
        teach(learner, strategy, LESSONS)
        return weights(learner), learner.flops.total

    half, base = ends(HFT(ER(memory_size=10), granularity, 1.0, redraw)), ends(ER(memory_size=10))
    assert torch.equal(half[0], base[0])
    assert half[1] == base[1]


def test_the_embedded_transformer_is_halved_and_the_other_half_stands_still(monkeypatch):
    seen = halves(monkeypatch)
    learner = Learner(batch=4, lr=0.01, momentum=0.9, weight_decay=0.1, threads=1, device="cpu")
    learner.open(ViTT6(), Syllabus(1, 4, (3, 64, 64), (8,), False), ImageTransform(), Stream.criterion, 0)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8))
    before = {name: t.detach().clone() for name, t in tensors(learner.model).items()}
    strategy = HFT()
    strategy.start(learner, syllabus(sizes=[8]))
    experience = lesson(Data(Source(x, torch.arange(8) % 4), torch.arange(8)))
    learner.begin(experience)
    strategy.learn(learner, experience)
    after, within = tensors(learner.model), set()
    for part in parts(learner.model):
        within.update(part.names)
        for name in part.names:
            where = after[name].detach() != before[name]
            where = where if part.slice is None else where.chunk(3)[part.slice]
            assert bool(where.any()) == (part in seen[0]), (part, name)
    assert {part.block for part in seen[0]} == {f"body.blocks.{i}" for i in range(6)}
    assert len(seen[0]) == 6 * 4
    for kind in ("attention", "normalisation"):
        assert 2 * size(learner.model, seen[0], kind) == size(learner.model, parts(learner.model), kind)
    assert {"body.cls_token", "body.pos_embed", "head.weight"} <= set(after) - within


# What it costs, and around what.


def test_frozen_layers_save_the_products_of_their_gradients(monkeypatch):
    """Of two hidden layers one trains; where it is the second, the first needs none of the products of backward."""
    seen = halves(monkeypatch)
    half, full = opened(model=MLP(20), batch=32), opened(model=MLP(20), batch=32)
    teach(half, HFT(), LESSONS)
    teach(full, Naive(), LESSONS)
    first = [next(iter(chosen)).names[0] == "body.fc1.weight" for chosen in seen]
    own_of_fc1, own_of_fc2, through_fc2 = 2 * 32 * 16 * 20, 2 * 32 * 20 * 20, 2 * 32 * 20 * 20
    saved = sum(own_of_fc2 if one else own_of_fc1 + through_fc2 for one in first)
    assert full.flops.total - half.flops.total == saved


def test_looks_within_an_experience_are_as_many():
    looks = []
    learner = opened(model=SMALL_VIT, batch=8)
    learner.looks = Looks([2], looks.append)
    teach(learner, HFT(), LESSONS)
    assert looks == [2] * 4


def test_phases_of_a_base_move_what_is_chosen_and_in_the_half(monkeypatch):
    seen = halves(monkeypatch)
    learner = opened(model=SMALL_VIT, batch=8, weight_decay=0.1)
    strategy = HFT(KFPF(memory_size=16, k=1, select=["qkv", "head"], share=1.0))
    fine_tune, held = KFPF.fine_tune, []

    def watched(self, given, memory, steps):
        before = {name: t.detach().clone() for name, t in tensors(given.model).items()}
        fine_tune(self, given, memory, steps)
        for name, t in tensors(given.model).items():
            held.append((name, (t != before[name]).reshape(len(t), -1).any(1)))

    monkeypatch.setattr(KFPF, "fine_tune", watched)
    teach(learner, strategy, LESSONS)
    moved = {name: rows for name, rows in held if rows.any()}
    chosen = {(name, part.slice) for part in seen[-1] for name in part.names if "qkv" in name}
    found = {(name, i) for name, rows in moved.items() if "qkv" in name for i in range(3) if rows.chunk(3)[i].any()}
    assert found == chosen
    assert set(moved) - {name for name, _ in chosen} == {"head.weight", "head.bias"}


def test_what_goes_around_passes_is_folded_innermost_first():
    @dataclass
    class Names(Around):
        name: str = ""

        def around_passes(self, learner, passes):
            for epoch in passes:
                told.append(f"{self.name} {epoch}")
                yield epoch

    told: list[str] = []
    teach(opened(epochs=2), Names(Names(Naive(), "inner"), "outer"), LESSONS[:1])
    assert told == ["inner 0", "outer 0", "inner 1", "outer 1"]


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (lambda: HFT(ER()), None),
        (lambda: HFT(DER(), redraw="epoch"), None),
        (lambda: HFT(ratio=0.75, redraw="epoch"), ViT(patch=3, width=12, depth=2, heads=2)),
        (lambda: FPF(HFT(ER()), select="head"), None),
    ],
    ids=["er", "der by epoch", "vit by epoch", "fpf"],
)
def test_it_goes_on(make, model):
    check_resume(make, model=model)


@pytest.mark.parametrize("where", ["qv", "attention"])
def test_query_key_and_value_that_lora_is_on_are_one_layer(where):
    learner = opened(model=SMALL_VIT, batch=8)
    LoRA(rank=3, where=where).start(learner, syllabus())
    fused = [part for part in parts(learner.model) if any("qkv" in name for name in part.names)]
    assert len(fused) == 4
    assert {part.slice for part in fused} == {None}
