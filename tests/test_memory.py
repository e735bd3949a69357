from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from small import images, numbers

from clbench.memory import Exemplars, GreedyBalanced, Memory, Reservoir, herding


def stream(memory, labels, sizes, seed=0):
    """Offer a stream in batches of these sizes, the last repeated; the sample's number goes along, twice over."""
    rng, data = np.random.default_rng(seed), images(labels)
    start, sizes = 0, list(sizes)
    while start < len(labels):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        x, y = data.gather(torch.arange(start, min(start + size, len(labels))))
        number = torch.arange(start, start + len(y))
        memory.add(x, y, rng, twice=torch.stack([number, number], 1), half=number / 2)
        start += size
    return memory


def held(memory):
    """The numbers of the samples in the slots, after a look at whether everything that goes along followed them."""
    places = slice(0, len(memory))
    found = numbers(memory.x[places])
    assert memory.kept["twice"][places].tolist() == [[n, n] for n in found]
    assert memory.kept["half"][places].tolist() == [n / 2 for n in found]
    return found


class Drawn:
    """Hands out slots drawn beforehand, and holds that they were asked for in the right ranges."""

    def __init__(self, draws):
        self.draws = list(draws)

    def integers(self, low, high):
        given, self.draws = self.draws[: len(high)], self.draws[len(high) :]
        assert low == 0
        assert all(0 <= g < h for g, h in zip(given, high, strict=True))
        return np.array(given)


def algorithm_r(size, draws):
    """Reservoir sampling one sample at a time, as Vitter has it; sample s draws from 0 .. s."""
    slots = []
    for number, draw in enumerate(draws):
        if number < size:
            slots.append(number)
        elif draw < size:
            slots[draw] = number
    return slots


@pytest.mark.parametrize("sizes", [[1], [7], [3, 20, 1, 64], [500]])
@pytest.mark.parametrize("size", [1, 10, 64, 600])
def test_reservoir_is_algorithm_r_however_the_stream_is_batched(size, sizes):
    draws = [int(np.random.default_rng(n).integers(0, n + 1)) for n in range(500)]
    memory = Reservoir(size)
    rng, data, start, sizes = Drawn(draws), images([0] * 500), 0, list(sizes)
    while start < 500:
        count = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        memory.add(*data.gather(torch.arange(start, min(start + count, 500))), rng)
        start += count
    assert numbers(memory.x[: len(memory)]) == algorithm_r(size, draws)
    assert memory.seen == 500
    assert len(memory) == min(size, 500)


def test_of_one_batch_the_later_sample_keeps_a_slot():
    memory = Reservoir(2)
    memory.add(*images([0] * 6).gather(torch.arange(6)), Drawn([0, 0, 1, 0, 1, 5]))
    assert numbers(memory.x) == [3, 4]


def test_reservoir_keeps_every_sample_with_the_same_probability():
    size, count, times = 6, 30, 4000
    kept = np.zeros(count, int)
    for seed in range(times):
        rng, slots = np.random.default_rng(seed), np.zeros(size, int)
        memory = Reservoir(size)
        for start in range(0, count, 7):
            chosen, places = memory.slots(None, min(7, count - start), rng)
            memory.seen += min(7, count - start)
            slots[places] = start + chosen
        kept[slots] += 1
    assert kept.sum() == size * times
    # The draws of one memory are without replacement, which makes chi-square smaller by (1 - size / count).
    statistic = ((kept - times * size / count) ** 2).sum() / (times * size / count) / (1 - size / count)
    assert 1e-3 < stats.chi2(count - 1).sf(statistic) < 1 - 1e-3


@pytest.mark.parametrize("kind", [Memory, Reservoir, GreedyBalanced])
def test_nothing_is_lost_while_there_is_room(kind):
    memory = stream(kind(50), [n % 5 for n in range(50)], [8, 9])
    assert held(memory) == list(range(50))
    assert memory.y.tolist() == [n % 5 for n in range(50)]


def test_the_plain_memory_keeps_what_comes_first():
    assert held(stream(Memory(10), [0] * 30, [8])) == list(range(10))


@pytest.mark.parametrize("kind", [Memory, Reservoir, GreedyBalanced])
@pytest.mark.parametrize("sizes", [[1], [16], [40, 3]])
def test_labels_and_tensors_follow_their_samples(kind, sizes):
    labels = np.random.default_rng(0).integers(0, 4, 200).tolist()
    memory = stream(kind(13), labels, sizes)
    found = held(memory)
    assert len(set(found)) == 13
    assert memory.y.tolist() == [labels[n] for n in found]
    assert memory.seen == 200


def gdumb(size, labels, rng):
    """Algorithm 1 of GDumb, one sample at a time. Returns the number of the sample in each slot."""
    memory, counts, seen = [], Counter(), set()
    for number, label in enumerate(labels):
        if label in seen and counts[label] >= size / len(seen):
            continue
        if len(memory) < size:
            memory.append(number)
        else:
            most = max(counts.values())
            largest = min(c for c in counts if counts[c] == most)
            slot = rng.choice([s for s, n in enumerate(memory) if labels[n] == largest])
            memory[slot] = number
            counts[largest] -= 1
        seen.add(label)
        counts[label] += 1
    return memory


@pytest.mark.parametrize("seed", range(40))
def test_greedy_balanced_is_algorithm_1(seed):
    rng = np.random.default_rng(seed)
    size, classes = int(rng.integers(1, 25)), int(rng.integers(1, 12))
    labels = rng.integers(0, classes, 150)
    if seed % 2:
        labels.sort()
    memory = stream(GreedyBalanced(size), labels.tolist(), rng.integers(1, 60, 20).tolist(), seed=seed)
    assert held(memory) == gdumb(size, labels.tolist(), np.random.default_rng(seed))


@pytest.mark.parametrize("size", [7, 10, 20])
@pytest.mark.parametrize("sort", [True, False])
def test_greedy_balanced_is_balanced(size, sort):
    labels = np.repeat(np.arange(6), 40)
    labels = labels if sort else np.random.default_rng(0).permutation(labels)
    memory = stream(GreedyBalanced(size), labels.tolist(), [16])
    counts = np.bincount(memory.y.numpy(), minlength=6)
    assert counts.sum() == size
    assert counts.max() - counts.min() <= 1


def test_greedy_balanced_keeps_a_rare_class_whole():
    memory = stream(GreedyBalanced(10), [0] * 50 + [1] * 2 + [0] * 50, [16])
    assert np.bincount(memory.y.numpy()).tolist() == [8, 2]


def test_samples_are_different_and_come_with_what_goes_along():
    memory = stream(Reservoir(20), [n % 3 for n in range(100)], [10])
    x, y, kept = memory.sample(12, np.random.default_rng(0))
    found = numbers(x)
    assert len(set(found)) == 12
    assert set(found) <= set(held(memory))
    assert y.tolist() == [n % 3 for n in found]
    assert kept["half"].tolist() == [n / 2 for n in found]
    assert sorted(numbers(memory.sample(99, np.random.default_rng(0))[0])) == sorted(held(memory))


def test_only_filled_slots_are_sampled_all_equally_often():
    memory = stream(Reservoir(50), [0] * 8, [8])
    rng = np.random.default_rng(0)
    counts = Counter(n for _ in range(2000) for n in numbers(memory.sample(3, rng)[0]))
    assert set(counts) == set(range(8))
    statistic = sum((c - 750) ** 2 / 750 for c in counts.values()) / (1 - 3 / 8)
    assert stats.chi2(7).sf(statistic) > 1e-3


def test_bytes_are_those_of_the_filled_slots():
    memory = Reservoir(50)
    assert memory.nbytes == 0
    stream(memory, [0] * 8, [3])
    assert memory.nbytes == 8 * (4 * 4 + 8 + 2 * 8 + 4)
    stream(memory, [0] * 100, [30])
    assert memory.nbytes == 50 * (4 * 4 + 8 + 2 * 8 + 4)


def test_the_samples_of_a_memory_are_data_of_their_own():
    memory = stream(Reservoir(50), [n % 3 for n in range(8)], [5])
    data = memory.data()
    x, y = data.gather(torch.arange(8))
    assert len(data) == 8
    assert numbers(x) == list(range(8))
    assert y.tolist() == data.labels.tolist() == [n % 3 for n in range(8)]


# Exemplars, and herding.


def taken(memory, rows, labels, share, rng=None):
    """Offer samples of these numbers, in this order; the numbers that are kept of each class, in order."""
    data = images([0] * 100)
    memory.take(data.gather(torch.tensor(rows))[0], torch.tensor(labels), share, rng)
    found, y = numbers(memory.x[: len(memory)]), memory.y[: len(memory)].tolist()
    return {label: [n for n, own in zip(found, y, strict=True) if own == label] for label in sorted(set(y))}


def test_exemplars_keep_the_first_of_each_class_and_are_cut_short():
    memory = Exemplars(12)
    assert taken(memory, [7, 3, 9, 4, 1, 8], [0, 1, 0, 1, 0, 1], 6) == {0: [7, 9, 1], 1: [3, 4, 8]}
    assert taken(memory, [20, 22, 21], [5, 5, 5], 2) == {0: [7, 9], 1: [3, 4], 5: [20, 22]}
    assert (len(memory), memory.size) == (6, 12)
    assert taken(memory, [30], [2], 1) == {0: [7], 1: [3], 2: [30], 5: [20]}
    assert len(memory) == 4
    assert memory.nbytes == 4 * (4 * 4 + 8)


def test_new_exemplars_come_before_those_held_and_the_last_give_way():
    memory = Exemplars(20)
    taken(memory, [1, 2, 3, 4], [0] * 4, 4)
    assert taken(memory, [9, 8], [0, 0], 4) == {0: [9, 8, 1, 2]}


def test_with_a_generator_random_exemplars_give_way():
    gone = Counter()
    for seed in range(400):
        memory = Exemplars(8)
        taken(memory, [1, 2, 3, 4, 11], [0] * 4 + [1], 4)
        held = taken(memory, [9], [0], 4, np.random.default_rng(seed))
        assert held[1] == [11]
        assert held[0][0] == 9
        [lost] = {1, 2, 3, 4} - set(held[0])
        gone[lost] += 1
    assert stats.chisquare([gone[n] for n in (1, 2, 3, 4)]).pvalue > 1e-3


def herded(features, count):
    """Algorithm 4 of iCaRL, one candidate at a time."""
    mean, chosen = features.mean(0), []
    for number in range(1, min(count, len(features)) + 1):
        gaps = {}
        for candidate in set(range(len(features))) - set(chosen):
            gaps[candidate] = np.linalg.norm(mean - features[[*chosen, candidate]].sum(0) / number)
        chosen.append(min(gaps, key=gaps.__getitem__))
    return chosen


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [1, 7, 30, 99])
def test_herding_is_algorithm_4(seed, count):
    features = np.random.default_rng(seed).normal(size=(30, 5))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    assert herding(torch.from_numpy(features), count).tolist() == herded(features, count)


def test_herding_by_hand():
    # The mean is 3: 4 is nearest; with 4, 1 makes 2.5 and 0 makes 2; with 4 and 1, 7 makes 4 and 0 makes 5 / 3.
    assert herding(torch.tensor([[0.0], [1.0], [4.0], [7.0]]), 3).tolist() == [2, 1, 3]
