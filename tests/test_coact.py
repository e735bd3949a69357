import copy
import math

import pytest
import torch
import torch.nn.functional as F
from small import Transformer, images, lesson, opened, syllabus, teach
from test_strategies import AUGMENTED

from clbench.errors import Mistake
from clbench.modules import swapped
from clbench.strategies.coact import CoACT, supcon
from clbench.testing import check_resume

LESSONS = [lesson(images([0, 1] * 12)), lesson(images([2] * 6), 1), lesson(images([3] * 6), 2)]


def learner(**options):
    return opened(model=Transformer(), **{"batch": 8, "lr": 0.05, "epochs": 2, **options})


def taught(lessons=LESSONS, options=None, **fields):
    student = learner(transform=AUGMENTED, **(options or {}))
    return student, teach(student, CoACT(**{"rank": 2, **fields}), lessons)


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_contrast_of_four_by_hand():
    """Angles 0, 60, 90 and 180 degrees; the first three are of one label, the last is alone."""
    angles = [0, 60, 90, 180]
    z = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles])
    e = {gap: math.exp(math.cos(math.radians(gap)) / 0.5) for gap in (30, 60, 90, 120, 180)}
    total = 0.0
    for others, positives in (((60, 90, 180), (60, 90)), ((60, 30, 120), (60, 30)), ((90, 30, 90), (90, 30))):
        below = sum(e[gap] for gap in others)
        total -= sum(math.log(e[gap] / below) for gap in positives) / 2
    assert supcon(z, torch.tensor([5, 5, 5, 2]), 0.5).item() == pytest.approx(total / 4, rel=1e-5)
    z.requires_grad_(True)
    supcon(z, torch.tensor([1, 2, 3, 4]), 0.07).backward()
    assert z.grad is not None
    assert not z.grad.any()


def test_without_epochs_it_is_prototypes_alone():
    ours, _ = taught(base_epochs=0)
    before = values(learner().model)
    for one in LESSONS:
        raw, y = one.train.gather(torch.arange(len(one.train)))
        with torch.no_grad():
            features = ours.model.body(ours.encode(raw))
        for label in one.classes:
            assert torch.allclose(ours.model.head.weight[label], features[y == label].mean(0), atol=1e-5)
    assert ours.step == 0
    now = values(ours.model)
    assert all(torch.equal(now[name], value) for name, value in before.items() if not name.startswith("head."))
    assert not ours.model.head.bias.any()


@pytest.mark.parametrize(
    ("blocks", "at", "moved"),
    [(0, 0, []), (1, 5, []), (1, 0, ["blocks.1", "norm"]), (1, 1, ["blocks.1", "norm"]), (2, 0, ["blocks", "norm"])],
)
def test_what_trains_in_the_base_session(blocks, at, moved):
    before = values(learner().model)
    ours, strategy = taught(LESSONS[:1], tune_blocks=blocks, tune_at=at, ema=0.5)
    stems = tuple(f"body.{stem}." for stem in moved)
    for name, value in before.items():
        trained = name == "head.weight" or name.startswith(stems)
        assert name == "head.bias" or torch.equal(values(ours.model)[name], value) != trained, name
    teacher = {f"body.{name}": value for name, value in values(strategy.teacher).items()}
    assert {name for name in teacher if not torch.equal(teacher[name], before[name])} <= {*strategy.tuned}
    assert bool(changed({n: before[n] for n in teacher}, teacher)) == bool(moved)


def test_everything_may_train():
    before = values(learner().model)
    ours, strategy = taught(LESSONS[:1], tune_blocks="all")
    assert {"body.cls_token", "body.pos_embed"} & {*strategy.tuned}
    still = {name for name in before if name not in changed(before, values(ours.model))}
    assert still == {"head.bias"}


def test_the_last_blocks_begin_to_train_at_their_epoch():
    log = []

    class Noted(CoACT):
        def loss(self, learner, batch):
            found = super().loss(learner, batch)
            log.append([learner.model.get_parameter(name).requires_grad for name in self.tuned])
            return found

    student = learner(epochs=3)
    strategy = Noted(rank=2, tune_at=2)
    strategy.start(student, syllabus(sizes=[24]))
    before = [p.requires_grad for p in student.model.parameters()]
    student.begin(LESSONS[0])
    strategy.learn(student, LESSONS[0])
    assert [any(entry) for entry in log] == [False] * 6 + [True] * 3
    assert [all(entry) for entry in log] == [any(entry) for entry in log]
    assert [p.requires_grad for p in student.model.parameters()] == before
    assert student.optim.shares == [1.0, 0.01]


def test_the_copy_follows_before_each_step():
    student = learner()
    strategy = CoACT(rank=2, ema=0.9)
    teach(student, strategy, LESSONS[:1])
    before = copy.deepcopy(strategy.teacher)
    theta = {name: torch.rand_like(p) for name, p in values(student.model).items()}
    with swapped(student.model, theta):
        next(strategy.batches(student, LESSONS[0]))
    for name, k in strategy.teacher.named_parameters():
        old = before.get_parameter(name)
        wanted = 0.9 * old + 0.1 * theta[f"body.{name}"] if f"body.{name}" in strategy.tuned else old
        assert torch.allclose(k, wanted, atol=1e-6), name


def test_the_base_loss_by_hand():
    student, strategy = taught(LESSONS[:1], tune_at=0, ema=0.5)
    batch = next(strategy.batches(student, LESSONS[0]))
    assert not torch.equal(batch.x, batch.past[0].x)
    z, k = student.model.body(batch.x), strategy.teacher(batch.past[0].x)
    both = F.normalize(torch.cat([z, k]))
    wanted = F.cross_entropy(student.model(batch.x), batch.y) + supcon(both, torch.cat([batch.y, batch.y]), 0.07)
    assert strategy.loss(student, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["released", "figure"])
def test_a_later_loss_by_hand(loss):
    student, strategy = taught(LESSONS[:2], ema=0.5, inc_epochs=2, inc_rate=0.5, inc_loss=loss)
    batch = next(strategy.batches(student, LESSONS[2]))
    x, second, y = batch.x, batch.past[0].x, batch.y
    logits, z = student.model(x), F.normalize(student.model.body(x))
    wanted = F.cross_entropy(logits, y)
    if loss == "released":
        k, old = (F.normalize(m(second)) for m in (strategy.base_teacher, strategy.pretrained))
        wanted = wanted + supcon(torch.cat([z, k, old]), y.repeat(3), 0.07)
        wanted = wanted + (logits - strategy.base(x)).square().mean()
        first = learner().model.body
        assert torch.equal(strategy.pretrained(second), first(second))
        assert not torch.equal(strategy.base_teacher(second), first(second))
    else:
        for k in (strategy.teacher(second), strategy.base.body(second)):
            wanted = wanted + supcon(torch.cat([z, F.normalize(k)]), y.repeat(2), 0.07)
    assert strategy.later_loss(student, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("layers", ["lora", "classifier", "both"])
def test_what_trains_in_a_later_session(layers):
    student = learner()
    strategy = CoACT(rank=2, inc_epochs=1, inc_rate=0.5, inc_layers=layers)
    teach(student, strategy, LESSONS[:1])
    before, base = values(student.model), values(strategy.base)
    assert not changed(before, base)
    student.begin(LESSONS[1])
    strategy.learn(student, LESSONS[1])
    moved = changed(before, values(student.model)) - {"head.weight"}
    assert moved == (set() if layers == "classifier" else {*strategy.lora})
    old = [0, 1]
    assert torch.equal(student.model.head.weight[old], before["head.weight"][old]) == (layers == "lora")
    assert not changed(base, values(strategy.base))


def test_later_sessions_without_epochs_leave_what_was_learned():
    student = learner()
    strategy = CoACT(rank=2)
    teach(student, strategy, LESSONS[:1])
    before, steps = values(student.model), student.step
    for one in LESSONS[1:]:
        student.begin(one)
        strategy.learn(student, one)
    assert changed(before, values(student.model)) == {"head.weight"}
    assert torch.equal(student.model.head.weight[:2], before["head.weight"][:2])
    assert student.step == steps
    assert strategy.base is None


def test_it_goes_on_with_later_epochs():
    options = CoACT(rank=2, base_epochs=1, tune_at=0, inc_epochs=1, inc_rate=0.1, inc_loss="figure", lora_blocks=1)
    check_resume(options, model=Transformer())


def test_more_blocks_than_there_are():
    with pytest.raises(Mistake, match=r"strategy\.tune_blocks=3: the network has 2 blocks"):
        CoACT(tune_blocks=3).start(learner(), syllabus(sizes=[4]))
