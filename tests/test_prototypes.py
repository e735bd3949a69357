import math
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import Net, images, lesson, opened, syllabus, teach, weights
from torch import nn

from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.memory import Reservoir
from clbench.metric import Look
from clbench.metrics.exams import Exams
from clbench.strategies.baselines import Naive
from clbench.strategies.fpf import KFPF
from clbench.strategies.lwf import LwF
from clbench.strategies.prototypes import LOWEST, NCM, SLDA
from clbench.strategies.replay import ER
from clbench.streams.toy import Toy
from clbench.testing import check_resume
from clbench.transform import ImageTransform

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20
AUGMENTED = ImageTransform(crop=1, flip=True)
PIXELS = Net(hidden=0)
"""features are the pixels, of 0 to 1"""


class Normed:
    """Batch normalisation and dropout stand before the features."""

    def build(self, shape, classes):
        body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 8), nn.Dropout(0.5), nn.ReLU())
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(8, classes)))


def two_lessons():
    return [lesson(images(FIRST)), lesson(images(SECOND + [2] * 7), 1)]


def taught(strategy, lessons=two_lessons, **options):
    learner = opened(**{"batch": 8, "epochs": 2, **options})
    return learner, teach(learner, strategy, lessons())


def by_hand(pixels, labels):
    """Samples of 2 x 2 pixels."""
    x = torch.tensor(pixels, dtype=torch.uint8).view(-1, 2, 2, 1)
    return Data(Source(x, torch.tensor(labels)), torch.arange(len(labels)))


def shown(learner, data):
    """Network input and features of data, un-augmented, as numpy sees them."""
    x = learner.encode(data.gather(torch.arange(len(data)))[0])
    with torch.no_grad():
        return x, learner.features(x).double().numpy()


# Nearest class mean.


def test_the_nearest_mean_by_hand():
    learner, strategy = opened(side=2, model=PIXELS), NCM()
    strategy.start(learner, syllabus(side=2))
    data = by_hand([(200, 0, 0, 0), (0, 50, 0, 0), (30, 40, 0, 0), (60, 80, 0, 0)], [0, 0, 2, 2])
    strategy.memory.add(*data.gather(torch.arange(4)), learner.rng("test"))
    strategy.average(learner, strategy.memory)
    assert strategy.means[[0, 2]].flatten().tolist() == pytest.approx([math.sqrt(0.5)] * 2 + [0, 0, 0.6, 0.8, 0, 0])
    assert strategy.known.tolist() == [True, False, True, False]
    found = strategy.predict(learner, learner.encode(by_hand([(9, 0, 0, 0), (0, 0, 0, 7)], [0, 0]).source.x))
    assert found[0].tolist() == pytest.approx([math.sqrt(2) - 2, LOWEST, -0.8, LOWEST])
    assert found[1].tolist() == pytest.approx([-2, LOWEST, -2, LOWEST])
    assert found.log_softmax(1).isfinite().all()
    assert F.cross_entropy(found, torch.tensor([0, 2])).isfinite()


@pytest.mark.parametrize("base", [Naive(), ER(memory_size=13)])
def test_means_are_of_what_memory_keeps_as_the_network_is_now(base):
    learner, strategy = taught(NCM(base=base), transform=AUGMENTED, model=Net(), eval_batch=5)
    memory = base.memory if isinstance(base, ER) else strategy.memory
    assert hasattr(strategy, "memory") != isinstance(base, ER)
    held = Data(Source(memory.x, memory.y), torch.arange(len(memory)))
    _, features = shown(learner, held)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = held.labels.numpy()
    for c in range(4):
        mean = features[labels == c].mean(0)
        assert strategy.known[c] == (c in labels)
        assert strategy.means[c].numpy() == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


@pytest.mark.parametrize("base", [Naive, partial(ER, memory_size=13)])
def test_ncm_leaves_training_alone(base):
    options = {"transform": AUGMENTED, "model": Normed(), "momentum": 0.9}
    alone, _ = taught(base(), **options)
    around, _ = taught(NCM(base=base()), **options)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, around.model.state_dict()[name])


def test_a_memory_of_its_own_is_a_reservoir_of_the_stream():
    _, strategy = taught(NCM(memory_size=30), epochs=1)
    assert isinstance(strategy.memory, Reservoir)
    assert (strategy.memory.size, strategy.memory.seen, len(strategy.memory)) == (30, 87, 30)
    assert taught(NCM())[1].memory.size == 500


def test_what_a_base_replays_is_not_offered_to_memory_again():
    phases = KFPF(memory_size=20, k=2)
    _, strategy = taught(NCM(base=phases), epochs=1)
    assert not hasattr(strategy, "memory")
    assert phases.memory.seen == 87


def test_what_a_warm_up_shows_is_not_offered_to_memory():
    _, strategy = taught(NCM(base=LwF(), memory_size=30), epochs=1)
    assert strategy.memory.seen == 87


def test_two_memories_are_refused():
    with pytest.raises(Mistake, match=r"ncm has a memory of its own: set strategy\.base\.memory_size"):
        NCM(base=ER(), memory_size=9).start(opened(), syllabus())


def test_until_there_are_means_the_base_answers():
    learner, strategy = opened(), NCM()
    strategy.start(learner, syllabus())
    x, _ = shown(learner, images(FIRST))
    assert torch.equal(strategy.predict(learner, x), learner(x))
    strategy.learn(learner, _begun(learner, lesson(images(FIRST))))
    assert (strategy.predict(learner, x)[:, 2:] == LOWEST).all()


def _begun(learner, experience):
    learner.begin(experience)
    return experience


def test_means_cost_a_forward_pass_over_memory():
    plain, _ = taught(Naive())
    learner, _ = taught(NCM(memory_size=30))
    assert learner.flops.total - plain.flops.total == 2 * 30 * 2 * 16 * 8


# Streaming linear discriminant analysis.


def scatter(features, labels):
    """Around the mean of each class, one sample after the other."""
    total = np.zeros((features.shape[1], features.shape[1]))
    for z, label in zip(features, labels, strict=True):
        apart = z - features[labels == label].mean(0)
        total += np.outer(apart, apart)
    return total


def drawn(seed=0, count=60, width=5, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    z = rng.normal(0, 1, (count, width)) @ rng.normal(0, 1, (width, width)) + 3 * np.eye(classes, width)[labels] + 50
    return z, labels


def statistics(z, labels, sizes, classes=3, shrinkage=1e-4):
    """SLDA that was given features in batches of these sizes."""
    strategy = SLDA(shrinkage)
    strategy.counts = torch.zeros(classes, dtype=torch.float64)
    strategy.means = torch.zeros(classes, z.shape[1], dtype=torch.float64)
    strategy.scatter = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64)
    for features, y in zip(torch.from_numpy(z).split(sizes), torch.from_numpy(labels).split(sizes), strict=True):
        strategy.take(features, y)
    strategy.solve()
    return strategy


def test_discriminants_by_hand():
    z = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 3.0], [10.0, 5.0]])
    strategy = statistics(z, np.array([0, 0, 2, 2]), [1, 3], shrinkage=0.5)
    assert strategy.counts.tolist() == [2, 0, 2]
    assert strategy.means.tolist() == [[1, 0], [0, 0], [10, 4]]
    assert strategy.scatter.tolist() == [[2, 0], [0, 2]]
    # The covariance is half the identity, and half of it with half the identity has the inverse 4/3.
    assert strategy.weight.flatten().tolist() == pytest.approx([4 / 3, 0, 40 / 3, 0, 0, 16 / 3])
    assert strategy.bias.tolist() == pytest.approx([-2 / 3, LOWEST, -232 / 3])


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 2, 51], [59, 1]])
def test_statistics_are_exact_however_they_come(sizes):
    z, labels = drawn()
    strategy = statistics(z, labels, sizes, classes=4)
    assert strategy.counts.tolist() == np.bincount(labels, minlength=4).tolist()
    assert strategy.scatter.numpy() == pytest.approx(scatter(z, labels), rel=1e-10)
    for c in range(3):
        assert strategy.means[c].numpy() == pytest.approx(z[labels == c].mean(0), rel=1e-12)
    order = np.argsort(labels, kind="stable")
    by_class = statistics(z[order], labels[order], sizes, classes=4)
    assert by_class.weight.numpy() == pytest.approx(strategy.weight.numpy(), rel=1e-8)


def test_it_is_the_linear_discriminant_analysis_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.discriminant_analysis")

    class Shrunk:
        def fit(self, x):
            self.covariance_ = 0.9 * np.cov(x.T, bias=True) + 0.1 * np.eye(x.shape[1])

    z, labels = drawn()
    theirs = sklearn.LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Shrunk()).fit(z, labels)
    ours = statistics(z, labels, [13, 47], shrinkage=0.1)
    priors = np.log(np.bincount(labels) / len(labels))
    assert (z @ ours.weight.numpy() + ours.bias.numpy() + priors) == pytest.approx(theirs.decision_function(z))


def test_all_shrunk_it_is_the_nearest_mean():
    z, labels = drawn()
    strategy = statistics(z, labels, [60], shrinkage=1.0)
    nearest = ((z[:, None] - strategy.means.numpy()) ** 2).sum(2).argmin(1)
    assert ((torch.from_numpy(z) @ strategy.weight + strategy.bias).argmax(1).numpy() == nearest).all()


def test_features_are_read_once_unaugmented_from_a_network_that_stands_still():
    options = {"transform": AUGMENTED, "model": Normed(), "eval_batch": 11}
    plain, _ = taught(Naive(), lessons=lambda: two_lessons()[:1], **options)
    learner, strategy = taught(SLDA(), **options)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, learner.model.state_dict()[name]), name
    assert plain.step == learner.step
    data = [one.train for one in two_lessons()]
    z = np.concatenate([shown(learner, one)[1] for one in data])
    labels = np.concatenate([one.labels.numpy() for one in data])
    assert strategy.counts.tolist() == [20, 20, 27, 20]
    assert strategy.scatter.numpy() == pytest.approx(scatter(z, labels), rel=1e-6)
    x, features = shown(learner, data[0])
    expected = features @ strategy.weight.numpy() + strategy.bias.numpy()
    with torch.no_grad():
        found = strategy.predict(learner, x).numpy()
    assert found == pytest.approx(expected, rel=1e-5)


def test_where_experiences_share_classes_their_samples_are_joined():
    parts = [images([0, 1] * 10), images([1, 0, 1] * 8)]
    learner, strategy = taught(SLDA(), lessons=lambda: [lesson(one, n) for n, one in enumerate(parts)])
    z = np.concatenate([shown(learner, one)[1] for one in parts])
    labels = np.concatenate([one.labels.numpy() for one in parts])
    assert strategy.counts.tolist() == [18, 26, 0, 0]
    assert strategy.scatter.numpy() == pytest.approx(scatter(z, labels), rel=1e-6)


def test_until_the_first_experience_is_learned_the_network_answers():
    learner, strategy = opened(), SLDA()
    strategy.start(learner, syllabus())
    x, _ = shown(learner, images(FIRST))
    assert torch.equal(strategy.predict(learner, x), learner(x))
    strategy.learn(learner, _begun(learner, lesson(images(FIRST))))
    found = strategy.predict(learner, x)
    assert (found[:, 2:] == LOWEST).all()
    assert found.dtype == torch.float32
    assert found.log_softmax(1).isfinite().all()


def test_a_pass_costs_a_forward_pass_and_the_scatter():
    plain, _ = taught(Naive(), lessons=lambda: two_lessons()[:1])
    learner, _ = taught(SLDA())
    forward, sums, within, between = 87 * 16 * 8, 87 * 4 * 8, 87 * 8 * 8, 2 * 4 * 8 * 8
    assert learner.flops.total - plain.flops.total == 2 * (forward + sums + within + between)


# What they are for.


def final_accuracy(strategy, seed):
    stream = Toy(noise=120)
    stream.open(seed)
    learner = opened(classes=6, side=6, model=Net(32), transform=stream.transform(), seed=seed, epochs=5, batch=16)
    strategy.start(learner, stream.syllabus())
    for experience in stream:
        strategy.learn(learner, _begun(learner, experience))
        learner.end()
    look = Look(3, learner.step, learner, strategy, stream.syllabus(), stream.exams(), frozenset(range(6)))
    return np.mean([row.value for row in Exams()(look) if row.metric == "class/accuracy"])


@pytest.mark.parametrize("make", [partial(NCM, memory_size=60), partial(NCM, base=ER(memory_size=60)), SLDA])
@pytest.mark.parametrize("seed", range(3))
def test_every_method_forgets_less_than_naive(make, seed):
    assert final_accuracy(make(), seed) > final_accuracy(Naive(), seed) + 0.1


@pytest.mark.parametrize("base", [ER(memory_size=60), KFPF(memory_size=60)])
def test_ncm_goes_on_around_others(base):
    check_resume(NCM(base=base))


def test_weights_of_two_runs_are_the_same():
    learners = [taught(SLDA(), model=Normed(), transform=AUGMENTED) for _ in range(2)]
    assert torch.equal(*(weights(learner) for learner, _ in learners))
    assert torch.equal(*(strategy.weight for _, strategy in learners))
