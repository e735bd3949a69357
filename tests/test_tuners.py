"""Tuners: what trains and what stands still, bit for bit."""

import pytest
import torch
from small import Net, Normed, Transformer, images, lesson, opened, syllabus, teach

from clbench.adapters import merge, trainable
from clbench.config import resolve
from clbench.errors import Mistake
from clbench.models import ConvBN, ResNet18, ViT
from clbench.modules import tensors
from clbench.strategies.aper import APER
from clbench.strategies.baselines import Naive
from clbench.strategies.coact import CoACT
from clbench.strategies.consolidation import EWC
from clbench.strategies.corda import CorDA
from clbench.strategies.dual_prompt import DualPrompt
from clbench.strategies.ease import EASE
from clbench.strategies.fpf import FPF
from clbench.strategies.gs_lora import GSLoRA
from clbench.strategies.hft import HFT
from clbench.strategies.linear_probe import LinearProbe
from clbench.strategies.merging import EMAMerge, ZeroShotMerge
from clbench.strategies.mos import MOS
from clbench.strategies.paths import SI, RWalk
from clbench.strategies.plasticity import L2Init
from clbench.strategies.projected import Frugal, GaLore
from clbench.strategies.ranpac import RanPAC
from clbench.strategies.replay import ER
from clbench.strategies.sparse import S2FT
from clbench.strategies.tuners import SSF, VPT, BitFit, BottleneckAdapter, LoRA, MaskTuning, NormOnly
from clbench.strategies.unlearning import L2, Retrain
from clbench.strategy import Around
from clbench.strategy import check as check_layers
from clbench.sweep import check
from clbench.testing import check_resume

LESSONS = [lesson(images([0, 1] * 16), 0), lesson(images([2, 3] * 16), 1)]
HARD = [
    {"momentum": 0.9, "weight_decay": 0.1, "keep_optimizer": True},
    {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
]


def moved(learner, strategy, lessons=LESSONS):
    """The names of what is not as it was after `start`."""
    before = {}
    start = strategy.start

    def noted(learner, syllabus):
        start(learner, syllabus)
        before.update({name: t.detach().clone() for name, t in tensors(learner.model).items()})

    strategy.start = noted
    teach(learner, strategy, lessons)
    return {name for name, t in tensors(learner.model).items() if not torch.equal(t.detach(), before[name])}


def named(learner, *ends):
    return {name for name in tensors(learner.model) if name.startswith("head.") or name.endswith(ends)}


VIT = [
    (LoRA(), ("qkv.lora_a", "qkv.lora_b")),
    (LoRA(where="ffn", rank=2), ("fc1.lora_a", "fc1.lora_b", "fc2.lora_a", "fc2.lora_b")),
    (LoRA(where=r"blocks\.0\.attn\.proj"), ("0.attn.proj.lora_a", "0.attn.proj.lora_b")),
    (SSF(), (".scale", ".shift")),
    (BottleneckAdapter(rank=4), ("down.weight", "down.bias", "up.weight", "up.bias")),
    (VPT(length=2), (".prompt",)),
    (VPT(length=2, form="shallow"), (".prompt",)),
    (BitFit(), (".bias",)),
    (NormOnly(), ("norm.weight", "norm.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")),
    (MaskTuning(), (".mask",)),
    (LinearProbe(), ("nothing else",)),
]


@pytest.mark.parametrize("options", HARD, ids=["momentum", "adamw"])
@pytest.mark.parametrize(("strategy", "ends"), VIT, ids=lambda part: type(part).__name__)
def test_of_a_transformer_only_this_moves(strategy, ends, options):
    learner = opened(model=Transformer(), batch=8, **options)
    assert moved(learner, strategy) == named(learner, *ends)
    assert {name for name, p in learner.model.named_parameters() if p.requires_grad} == named(learner, *ends)


@pytest.mark.parametrize("options", HARD, ids=["momentum", "adamw"])
@pytest.mark.parametrize(
    ("strategy", "spec", "side", "ends"),
    [
        (LoRA(), Net(), 4, ("lora_a", "lora_b")),
        (SSF(), ConvBN(4), 8, (".scale", ".shift")),
        (SSF(), ResNet18(4), 8, (".scale", ".shift")),
        (BitFit(), ResNet18(4), 8, (".bias",)),
        (NormOnly(), Normed(), 4, tuple(f"{bn}.{end}" for bn in ("bn1", "bn2")
                                       for end in ("weight", "bias", "running_mean", "running_var"))),
        (LinearProbe(), Normed(), 4, ("nothing else",)),
    ],
)  # fmt: skip
def test_of_other_networks_likewise_and_running_statistics_rest_unless_they_are_tuned(
    strategy, spec, side, ends, options
):
    learner = opened(model=spec, side=side, batch=8, **options)
    lessons = [lesson(images([0, 1] * 16, side), 0), lesson(images([2, 3] * 16, side), 1)]
    assert moved(learner, strategy, lessons) == named(learner, *ends)


@pytest.mark.parametrize("strategy", [LoRA(), LoRA(where="all", alpha=4.0), BottleneckAdapter(), MaskTuning()])
def test_at_first_nothing_is_changed(strategy):
    learner, plain = (opened(model=Transformer()) for _ in range(2))
    strategy.start(learner, syllabus(sizes=[32, 32]))
    x = learner.encode(LESSONS[0].train.gather(torch.arange(8))[0])
    assert torch.equal(strategy.predict(learner, x), plain(x))


def test_scale_and_shift_begin_as_in_the_paper():
    """gamma ~ N(1, .02), beta ~ N(0, .02); within one deviation 68 % of a normal draw, and 58 % of a uniform one."""
    learner = opened(model=ViT(patch=2, width=96, depth=4, heads=3))
    SSF().start(learner, syllabus(sizes=[32, 32]))
    for end, mean in ((".scale", 1.0), (".shift", 0.0)):
        there = [p.detach() for name, p in learner.model.named_parameters() if name.endswith(end)]
        drawn = torch.cat(there) - mean
        assert len(drawn) == 96 + 4 * (96 + 288 + 96 + 96 + 384 + 96) + 96
        assert abs(float(drawn.mean())) < 0.001
        assert float(drawn.std()) == pytest.approx(0.02, rel=0.05)
        assert float((drawn.abs() < 0.02).float().mean()) == pytest.approx(0.683, abs=0.03)


def test_lora_merged_answers_the_same():
    learner = opened(model=Transformer(), batch=8)
    teach(learner, LoRA(where="all", rank=2), LESSONS)
    x = learner.encode(LESSONS[0].train.gather(torch.arange(8))[0])
    expected = learner(x)
    merge(learner.model)
    with torch.no_grad():
        for name, p in learner.model.named_parameters():
            if name.endswith("lora_b"):
                p.zero_()
    torch.testing.assert_close(learner(x), expected)


def test_masks_pass_gradients_straight_through_and_hide_what_is_below():
    learner, plain = opened(model=Transformer()), opened(model=Transformer())
    MaskTuning().start(learner, syllabus(sizes=[32, 32]))
    x, name = learner.encode(LESSONS[0].train.gather(torch.arange(8))[0]), "body.blocks.1.attn.proj"
    for one in (learner, plain):
        one(x).square().sum().backward()
    weight = plain.model.get_parameter(f"{name}.weight")
    torch.testing.assert_close(learner.model.get_parameter(f"{name}.mask").grad, weight.grad * weight.detach())
    with torch.no_grad():
        learner.model.get_parameter(f"{name}.mask")[:, ::2] = 0.005
        weight[:, ::2] = 0
    torch.testing.assert_close(learner(x), plain(x))


def test_masks_flip_under_adam():
    learner = opened(model=Transformer(), batch=8, optimizer="adam", lr=0.002, epochs=2)
    teach(learner, MaskTuning(), LESSONS)
    closed = learner.model.get_parameter("body.blocks.0.attn.qkv.mask") <= 0.005
    assert 0 < closed.sum() < closed.numel()


def test_numbers_of_weights_are_those_of_the_definitions():
    """Width 12, two blocks, hidden 48, 4 classes: the head has 52."""
    for strategy, count in [
        (LoRA(rank=2), 2 * 2 * 2 * (12 + 12)),
        (LoRA(where="qkv", rank=2), 2 * 2 * (12 + 36)),
        (LoRA(where="ffn", rank=2), 2 * 2 * 2 * (12 + 48)),
        (SSF(), 2 * 12 + 2 * 2 * (12 + 36 + 12 + 12 + 48 + 12) + 2 * 12),
        (BottleneckAdapter(rank=3), 2 * (12 * 3 + 3 + 3 * 12 + 12)),
        (VPT(length=5), 2 * 5 * 12),
        (LinearProbe(), 0),
    ]:
        learner = opened(model=Transformer())
        strategy.start(learner, syllabus(sizes=[32, 32]))
        assert trainable(learner.model) == count + 52


def test_the_first_step_of_the_head_is_that_of_the_base():
    ends = []
    for strategy in (LinearProbe(), Naive()):
        learner = opened(model=Transformer(), batch=32)
        teach(learner, strategy, LESSONS[:1])
        ends.append(learner.model.head.weight.detach())
    torch.testing.assert_close(*ends)


def test_what_stands_still_costs_less():
    costs = {}
    for name, strategy in (("head", LinearProbe()), ("lora", LoRA(rank=1)), ("all", Naive())):
        learner = opened(model=Transformer(), batch=32)
        teach(learner, strategy, LESSONS)
        costs[name] = learner.flops.total
    assert costs["head"] < costs["lora"] < costs["all"]


@pytest.mark.parametrize(
    ("strategy", "spec", "line"),
    [
        (LoRA(), ConvBN(4), "This tunes linear layers, and the body of this model has none"),
        (LoRA(where="blocks.9"), Transformer(), r"No module of VisionTransformer matches 'blocks.9'"),
        (NormOnly(), Net(), "norm_only trains normalisation, and this model has none"),
        (VPT(), Net(), "This needs a vision transformer"),
    ],
)
def test_a_mistake_is_one_line(strategy, spec, line):
    with pytest.raises(Mistake, match=line):
        strategy.start(opened(model=spec, side=8), syllabus(side=8, sizes=[32, 32]))


@pytest.mark.parametrize(
    "strategy",
    [
        LoRA(SSF()),
        LoRA(MOS()),
        BitFit(CoACT()),
        LinearProbe(GSLoRA()),
        SSF(DualPrompt()),
        LoRA(EASE()),
        HFT(MOS()),
        HFT(RanPAC()),
    ],
    ids=lambda s: f"{type(s).__name__}-{type(s.base).__name__}",
)
def test_only_one_says_what_trains(strategy):
    outer, inner = type(strategy).__name__, type(strategy.base).__name__
    with pytest.raises(Mistake, match=f"^{outer} around {inner}: each says alone what trains; choose one of them.$"):
        check_layers(strategy)


@pytest.mark.parametrize("strategy", [HFT(LoRA()), HFT(S2FT(ER())), HFT(HFT()), LoRA(HFT()), EWC(LoRA()), CorDA(ER())])
def test_a_half_of_what_another_one_around_something_chose_may_train(strategy):
    check_layers(strategy)


@pytest.mark.parametrize(
    ("strategy", "holds"),
    [
        (CorDA(EWC()), "EWC"),
        (CorDA(SI()), "SI"),
        (CorDA(RWalk()), "RWalk"),
        (CorDA(L2Init()), "L2Init"),
        (CorDA(L2()), "L2"),
        (EWC(CorDA()), "EWC"),
        (FPF(EMAMerge(CorDA(ER()))), "EMAMerge"),
        (L2(Retrain()), "L2"),
        (EWC(ZeroShotMerge()), "EWC"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, Around) else part,
)
def test_what_holds_weights_has_no_part_in_what_makes_them_anew(strategy, holds):
    line = rf"^(\w+) with {holds}: \1 begins an experience with weights of its own, and {holds} holds them where they"
    with pytest.raises(Mistake, match=line):
        check_layers(strategy)


@pytest.mark.parametrize("base", [RanPAC, APER])
def test_nothing_goes_around_what_tunes_nothing(base):
    for around in (Frugal(base(tune="none")), HFT(GaLore(base(tune="none"))), EWC(base(tune="none"))):
        line = f"can't be put around {base.__name__}: it acts in Learner.fit, which {base.__name__} never calls"
        with pytest.raises(Mistake, match=line):
            check_layers(around)
    check_layers(Frugal(base()))
    check_layers(base(tune="none"))


@pytest.mark.parametrize("name", ["adapter", "vpt"])
def test_a_model_without_attention_is_told_before_anything_runs(name):
    with pytest.raises(Mistake, match=rf"{name}\(naive\) needs transformer, which neither stream=toy nor model=mlp"):
        check(resolve({"stream": "toy", "model": "mlp", "strategy": name}))


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (lambda: LoRA(ER(), dropout=0.1, where="all"), Transformer()),
        (lambda: FPF(BitFit(ER()), select="head"), None),
        (lambda: HFT(NormOnly(), redraw="epoch"), Transformer()),
    ],
    ids=["lora of er", "fpf of bitfit", "hft of norms"],
)
def test_it_goes_on(make, model):
    check_resume(make, model=model)
