from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from small import Transformer, images, lesson, opened, syllabus, teach, vit_b16, weights

from clbench.adapters import bottleneck, freeze
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import swapped
from clbench.seeds import derive
from clbench.strategies.mos import MOS, apart
from clbench.strategies.simplecil import Prototypes, SimpleCIL
from clbench.strategy import Strategy
from clbench.streams.toy import Toy

LESSONS = [lesson(images([0, 1] * 12)), lesson(images([2, 3] * 12), 1)]


def learner(**options):
    return opened(model=Transformer(), **{"batch": 8, "lr": 0.05, "epochs": 2, **options})


def adapters(learner):
    return {n: p.detach().clone() for n, p in learner.model.named_parameters() if ".adapter." in n}


def taught(lessons=LESSONS, options=None, **fields):
    """A learner and a strategy that learned the lessons, with little alignment."""
    student = learner(**(options or {}))
    return student, teach(student, MOS(**{"align_epochs": 2, "rank": 4, **fields}), lessons)


@dataclass
class Tuning(Strategy):
    """Adapters and head trained, among the classes of the experience, and nothing else."""

    def start(self, learner, syllabus):
        freeze(learner.model, but=[*bottleneck(learner.model, 4, seed=derive(learner.seed, "adapters")), "head."])

    def learn(self, learner, experience):
        self.others = torch.tensor([c not in experience.classes for c in range(4)])
        learner.optim = learner.new_optimizer(learner.steps(len(experience.train)), rates={"head.": 0.1})
        super().learn(learner, experience)

    def loss(self, learner, batch):
        return F.cross_entropy(learner(batch.x).masked_fill(self.others, -torch.inf), batch.y)


def test_without_its_parts_it_is_plain_adapter_tuning():
    ours, strategy = taught(adapter_momentum=0, reg=0, align_epochs=0, ensemble=False)
    plain = learner()
    teach(plain, Tuning(), LESSONS)
    assert torch.equal(weights(ours), weights(plain))
    x = torch.rand(9, 1, 4, 4)
    with torch.inference_mode():
        z, task = strategy.predict(ours, x), strategy.retrieved(ours, x)
        newest = task == 1
        assert newest.any()
        assert torch.allclose(z[newest], plain(x)[newest], atol=1e-6)


def test_only_adapters_and_head_train():
    before = learner().model.state_dict()
    ours, _ = taught()
    for name, value in ours.model.state_dict().items():
        moved = ".adapter." in name or name.startswith("head.")
        assert moved or torch.equal(value, before[name]), name


@pytest.mark.parametrize(("merge", "before", "after"), [("per_step", 0, 1), ("released", 2, 3)])
def test_merging_by_hand(merge, before, after):
    """Two blocks. A merge takes theta to 0.7 theta + 0.3 mean."""
    student, strategy = taught(LESSONS[:1], adapter_momentum=0.3, merge=merge)
    rng = torch.Generator().manual_seed(1)
    own, mean = ({n: torch.rand(p.shape, generator=rng) for n, p in adapters(student).items()} for _ in range(2))
    strategy.mean = mean

    def expected(times):
        return {n: mean[n] + 0.7**times * (own[n] - mean[n]) for n in own}

    def same(times):
        return all(torch.allclose(p, expected(times)[n], atol=1e-6) for n, p in adapters(student).items())

    with swapped(student.model, own):
        batches = strategy.batches(student, LESSONS[1])
        assert same(0)
        next(batches)
        assert same(before)
        next(batches)
        assert same(after + before)


def test_the_mean_is_of_all_earlier_tasks():
    lessons = [lesson(images([label] * 16), number) for number, label in enumerate([0, 1, 2])]
    student, strategy = taught(lessons[:2], adapter_momentum=0.0)
    strategy.adapter_momentum = 1.0
    student.begin(lessons[2])
    strategy.learn(student, lessons[2])
    a, b, c = strategy.adapters
    assert all(torch.allclose(c[name], (a[name] + b[name]) / 2, atol=1e-7) for name in a)
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_the_term_that_drives_apart_by_hand():
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for i in range(5):
        products = [float(rows[i] @ rows[j]) / 0.8 for j in range(5)]
        total += torch.tensor(products).logsumexp(0).item() - products[i]
    assert apart(rows, 0.8).item() == pytest.approx(total / 5, rel=1e-5)


def test_the_loss_by_hand():
    student, strategy = taught(LESSONS[:1])
    strategy.own = torch.tensor([False, False, True, True])
    strategy.old = strategy.gaussians.means()[0]
    batch = next(student.batches(LESSONS[1].train))
    features = student.model.body(batch.x)
    ce = F.cross_entropy(student.model(batch.x)[:, 2:], batch.y - 2)
    wanted = ce + 0.1 * apart(torch.cat([strategy.old, features]), 0.8)
    assert strategy.loss(student, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_what_is_kept_of_a_class():
    student, strategy = taught()
    for number, one in enumerate(LESSONS):
        raw, y = one.train.gather(torch.arange(24))
        own, first = [], []
        with torch.no_grad():
            with swapped(student.model, strategy.adapters[number]):
                own = student.model.body(student.encode(raw))
            with swapped(student.model, strategy.adapters[0]):
                first = student.model.body(student.encode(raw))
        means, classes = strategy.gaussians.means()
        for label in one.classes:
            assert torch.allclose(means[classes.index(label)], own[y == label].mean(0), atol=1e-5)
            assert torch.allclose(strategy.prototypes.means()[label], first[y == label].mean(0), atol=1e-5)


def test_the_nearest_mean_is_simplecil_under_the_first_adapters():
    student, strategy = taught()
    other = learner()
    simple = SimpleCIL()
    simple.start(other, syllabus(sizes=[24, 24]))
    bottleneck(other.model, 4)
    x = torch.rand(7, 1, 4, 4)
    with torch.inference_mode(), swapped(other.model, strategy.adapters[0]):
        for one in LESSONS:
            simple.learn(other, one)
        ours = strategy.nearest(strategy.under(student, x, 0))
        assert torch.allclose(ours, simple.predict(other, x), atol=1e-5)


def test_alignment_moves_the_head_alone():
    plain, unaligned = taught(align_epochs=0)
    ours, aligned = taught(align_epochs=3)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[name]) != name.startswith("head."), name
    assert ours.step - plain.step == 3 * 4
    batches = list(aligned.drawn(ours))
    assert [len(batch.y) for batch in batches] == [40] * 12
    assert sorted(torch.cat([batch.y for batch in batches[:4]]).tolist()) == [c for c in range(4) for _ in range(40)]
    assert unaligned.gaussians.means()[1] == [0, 1, 2, 3]


def test_alignment_steps_as_in_their_code(monkeypatch):
    """SGD, 0.005, momentum 0.9, the weight decay of the task, half a cosine over 30 epochs, of the head alone."""
    seen, fit = [], Learner.fit

    def noted(self, batches, loss, adjust=None, optimizer=None):
        if optimizer is not None:
            seen.append((optimizer, dict(optimizer.torch.param_groups[0])))
        fit(self, batches, loss, adjust, optimizer)

    monkeypatch.setattr(Learner, "fit", noted)
    student, _ = taught(options={"weight_decay": 5e-4}, align_epochs=MOS().align_epochs)
    ((optimizer, group),) = seen
    assert type(optimizer.torch) is torch.optim.SGD
    assert [group[name] for name in ("lr", "momentum", "nesterov")] == [0.005, 0.9, False]
    assert group["weight_decay"] == 5e-4
    assert group["params"] == list(student.model.head.parameters())
    assert optimizer.done == optimizer.steps == 30 * 4
    assert [optimizer.factor(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.853553, 0.5, 0])


class Crafted(MOS):
    """Features are looked up, by task and sample: logits of the head, then cosines to class means."""

    def under(self, learner, x, task):
        self.calls.append((task, x[:, 0].tolist()))
        return self.tables[task][x[:, 0]]

    def head(self, learner, features):
        return features[:, :4]


def test_retrieval_sends_an_image_on_until_the_head_agrees():
    """Classes 0 and 1 are of task 0, 2 and 3 of task 1. What the means say, and what the head says under each task:
    sample 0: 0, and 1 | -: stays. 1: 2, and 1 | 0: on to task 0. 2: 3, and 2 | 0: to and fro, four turns in all from
    task 1, so it ends at task 0. 3: 0, and 3 | 2: on to task 1.
    """
    one = F.one_hot
    means, heads = torch.tensor([0, 2, 3, 0]), torch.tensor([[1, 1, 2, 3], [0, 0, 0, 2]])
    strategy = Crafted()
    strategy.tables = [torch.cat([one(head, 4), one(means, 4)], 1).float() for head in heads]
    strategy.prototypes = Prototypes(torch.cat([torch.zeros(4, 4), torch.eye(4)], 1), torch.ones(4, 1))
    strategy.task = torch.tensor([0, 0, 1, 1])
    strategy.calls = []
    task, logits, first = strategy.refined(opened(), torch.arange(4)[:, None])
    assert first.argmax(1).tolist() == means.tolist()
    assert task.tolist() == [0, 0, 0, 1]
    assert logits.argmax(1).tolist() == [1, 1, 2, 2]
    assert strategy.calls == [(0, [0, 1, 2, 3]), (1, [1, 2]), (1, [3]), (1, [2])]


def test_answers_sample_by_sample():
    """The algorithm of the paper for one image, against what is answered to all at once, in any batches."""
    lessons = [lesson(images([label] * 16), number) for number, label in enumerate([2, 0, 3])]
    student, strategy = taught(lessons, {"lr": 0.2}, reg=0.0)
    rng = torch.Generator().manual_seed(3)
    for task in strategy.adapters:
        for value in task.values():
            value.normal_(generator=rng)
    strategy.prototypes.sums.normal_(generator=rng)
    seen, arrived = [0, 2, 3], {2: 0, 0: 1, 3: 2}
    x = torch.rand(60, 1, 4, 4, generator=rng)

    def one(x):
        def features(task):
            with swapped(student.model, strategy.adapters[task]):
                return student.model.body(x)

        z0 = F.cosine_similarity(features(0), strategy.prototypes.means()[seen])
        task = arrived[seen[z0.argmax()]]
        for turn in range(1, 5):
            z = student.model.head(features(task))[0, seen]
            new = arrived[seen[z.argmax()]]
            if new == task or turn == 4:
                break
            task = new
        return task, z.softmax(0) + (3 * z0).softmax(0)

    before = weights(student)
    with torch.inference_mode():
        wanted = [one(sample) for sample in x.split(1)]
        answers, tasks = strategy.predict(student, x), strategy.retrieved(student, x)
        assert tasks.tolist() == [task for task, _ in wanted]
        assert len({*tasks.tolist()}) == 3
        for answer, (_, both) in zip(answers, wanted, strict=True):
            assert torch.allclose(2 * answer[seen].exp(), both, atol=1e-5)
            assert answer[1] == answer.min()
        for size in (1, 7):
            again = torch.cat([strategy.predict(student, part) for part in x.split(size)])
            assert torch.allclose(again, answers, atol=1e-5)
    assert torch.equal(weights(student), before)


def test_the_cost_of_an_answer_is_that_of_the_adapters_asked():
    from clbench.flops import counted

    student, strategy = taught()
    x = torch.rand(1, 1, 4, 4)
    with torch.inference_mode(), counted() as one:
        student.features(x)
    with torch.inference_mode(), counted() as all_of_it:
        strategy.predict(student, x)
    assert one() < all_of_it() < 6 * one()


def test_classes_that_come_again_have_no_task():
    with pytest.raises(Mistake, match="share classes"):
        MOS().start(learner(), syllabus(sizes=[4, 4], shared=True))


@pytest.mark.parametrize("storage", ["variance", "centroids"])
def test_other_gaussians(storage):
    _, strategy = taught(storage=storage)
    assert {part.spread.ndim for parts in strategy.gaussians.parts.values() for part in parts} == {1}


def test_numbers_of_weights_at_full_size():
    """Those that the authors' log tells of, for ViT-B/16 with 200 classes."""
    net = vit_b16(200)
    with torch.device("meta"):
        names = bottleneck(net, MOS().rank)
    freeze(net, but=[*names, "head."])
    assert sum(net.get_parameter(name).numel() for name in names) == 304_320
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 458_120
    assert sum(p.numel() for p in net.parameters()) == 86_256_776


def on_patterns(strategy):
    """After the toy stream, two classes a task: the share of right answers, and of tasks that are found."""
    stream = Toy()
    stream.open(0)
    student = Learner(device="cpu", threads=1, epochs=5, batch=16, lr=0.05, momentum=0.9)
    student.open(Transformer(), stream.syllabus(), stream.transform(), stream.criterion, 0)
    strategy.start(student, stream.syllabus())
    for experience in stream:
        student.begin(experience)
        strategy.learn(student, experience)
        student.end()
    parts = [exam.data.gather(torch.arange(len(exam.data))) for exam in stream.exams()]
    x, y = student.encode(torch.cat([raw for raw, _ in parts])), torch.cat([y for _, y in parts])
    with torch.inference_mode():
        found = strategy.retrieved(student, x) if isinstance(strategy, MOS) else y.new_zeros(y.shape)
        right = strategy.predict(student, x).argmax(1) == y
    return right.double().mean().item(), (found == y // 2).double().mean().item()


def test_it_forgets_less_than_naive():
    naive, _ = on_patterns(Strategy())
    ours, found = on_patterns(MOS())
    assert ours > naive + 0.4
    assert found > 1 / 3 + 0.2


def test_merging_as_released_is_another_training():
    per_step, released = (taught(merge=merge)[0] for merge in ("per_step", "released"))
    assert not torch.equal(weights(per_step), weights(released))
    one = [taught(LESSONS[:1], merge=merge)[0] for merge in ("per_step", "released")]
    assert torch.equal(weights(one[0]), weights(one[1]))
