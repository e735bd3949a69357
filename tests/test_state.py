import copy
import json
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small import images
from torch import nn

from clbench.batch import Batch
from clbench.data import Data
from clbench.memory import Reservoir
from clbench.state import Unpackable, kept_bytes, pack, pack_value, unpack, unpack_value
from clbench.strategies.replay import ER
from clbench.strategy import Strategy

CPU = torch.device("cpu")
LESSONS = [images([0, 1], lesson=0), images([2, 3], lesson=1)]


def through_json(tree):
    """The tree as a checkpoint gives it back."""
    return json.loads(json.dumps(tree))


def again(value, current=None):
    """A value packed, written, read and unpacked."""
    tree, tensors = pack_value(value, "x")
    return unpack_value(through_json(tree), tensors, current, LESSONS.__getitem__, CPU)


def same(a, b):
    """Whether two values are equal, of one type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.requires_grad == b.requires_grad and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    return a == b


@dataclass
class Note:
    text: str
    value: Any = None


@dataclass(frozen=True)
class Frozen:
    tensor: Any


@dataclass(slots=True)
class Slotted:
    a: Any
    b: Any = None


PLAIN = [
    None, True, False, 0, -7, 10**30, 1.5, 1e-300, float("inf"), "", "text", "ä ' \" \\ \n",
    [], (), {}, set(), frozenset(), [1, [2, (3, None)]], (1,), {1, 2}, frozenset({"ab"}), {(1, 2), (3,)},
    {"a": 1, 2: "b", (1, "x"): [1.0], None: None, frozenset({1}): True, 2.5: 3},
]  # fmt: skip
randn = partial(torch.randn, generator=torch.Generator().manual_seed(0))

TENSORS = [
    torch.tensor(3.0), torch.zeros(0, 4), torch.arange(6).view(2, 3), torch.arange(6).view(2, 3).T,
    randn(3, dtype=torch.float64), torch.tensor([True, False]), randn(4).bfloat16(),
    randn(3, requires_grad=True), randn(2, dtype=torch.complex64), nn.Parameter(randn(2)),
    nn.Parameter(randn(2), requires_grad=False), torch.arange(4, dtype=torch.uint8)[::2],
    (randn(3, requires_grad=True) * 2).detach(),
]  # fmt: skip
NUMPY = [
    np.float64(2.5), np.float32(2.5), np.int64(3), np.uint8(255), np.bool_(True), np.array(4.0), np.arange(6)[::-1],
    np.arange(12).reshape(3, 4).T, np.zeros((0, 2)), np.array([True]), np.arange(3, dtype=np.uint16),
    np.arange(4, dtype=np.float16), np.broadcast_to(np.arange(3), (2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("value", [*PLAIN, *TENSORS, *NUMPY], ids=repr)
def test_what_goes_in_comes_out(value):
    assert same(again(value), value)


def test_a_number_that_is_none():
    assert np.isnan(again(float("nan")))
    assert np.isnan(again([np.float32("nan")])[0])


@pytest.mark.parametrize(
    "value",
    [
        [torch.ones(2), {"a": np.ones(2), "b": (torch.zeros(1),)}],
        {"a": [torch.zeros(1)], "a[0]": torch.ones(1)},
        {(1, 2): {"x": [torch.ones(1)]}, (1, 3): {"x": [torch.zeros(1)]}},
    ],
    ids=repr,
)
def test_containers_come_back_with_what_they_hold(value):
    assert same(again(value), value)


def test_values_of_colliding_names_stay_with_their_names():
    found = again({1: torch.zeros(1), "1": torch.ones(1)})
    assert (float(found[1]), float(found["1"])) == (0.0, 1.0)
    found = again({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}})
    assert (float(found["a.b"]), float(found["a"]["b"])) == (0.0, 1.0)


def test_an_ordered_dictionary_and_a_size_become_plain():
    assert same(again(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})
    assert same(again(torch.zeros(2, 3).shape), (2, 3))


def test_dataclasses_come_back_with_what_they_hold():
    assert again(Note("a", {1: 2})) == Note("a", {1: 2})
    assert torch.equal(again(Frozen(torch.ones(2))).tensor, torch.ones(2))
    assert again(Slotted("a")) == Slotted("a")
    memory = Reservoir(3)
    memory.add(torch.arange(5).view(5, 1, 1, 1), torch.arange(5), np.random.default_rng(0), extra=torch.arange(5) * 2)
    found = again(memory)
    assert (found.size, found.filled, found.seen) == (3, 3, 5)
    assert torch.equal(found.x, memory.x)
    assert torch.equal(found.kept["extra"], memory.kept["extra"])
    batch = again(Batch(torch.ones(1), torch.zeros(1), torch.ones(1), kept={"z": torch.ones(2)}))
    assert (batch.index, batch.past) == (None, ())
    assert torch.equal(batch.kept["z"], torch.ones(2))


def test_data_is_named_by_its_lesson():
    tree, tensors = pack_value([LESSONS[1], LESSONS[0]], "x")
    assert not tensors
    assert [d is LESSONS[n] for d, n in zip(again([LESSONS[1], LESSONS[0]]), (1, 0), strict=True)] == [True, True]
    assert "images" not in json.dumps(tree)


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "SFC64", "Philox", "MT19937"])
def test_generators_of_numpy_draw_the_same_after(bits):
    generator = np.random.Generator(getattr(np.random, bits)(3))
    generator.random(5)
    generator.integers(0, 10, dtype=np.int32)
    found = again(generator)
    assert np.array_equal(found.random(9), generator.random(9))
    assert np.array_equal(found.integers(0, 100, 9, dtype=np.int32), generator.integers(0, 100, 9, dtype=np.int32))
    assert type(found.bit_generator) is type(generator.bit_generator)


def test_generators_of_torch_draw_the_same_after():
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    found = again(generator)
    assert torch.equal(torch.rand(9, generator=found), torch.rand(9, generator=generator))


class Point(NamedTuple):
    x: int


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (lambda: 0, "s.a[0] is a builtins.function, which"),
        (deque(), "s.a[0] is a collections.deque, which"),
        (b"bytes", "s.a[0] is a builtins.bytes, which"),
        (range(3), "s.a[0] is a builtins.range, which"),
        (1j, "s.a[0] is a builtins.complex, which"),
        (Colour.RED, "s.a[0] is a test_state.Colour, which"),
        (Note, "s.a[0] is a builtins.type, which"),
        (torch.float32, "s.a[0] is a torch.dtype, which"),
        (Point(1), "s.a[0] is a test_state.Point, which"),
        (Counter("aab"), "s.a[0] is a collections.Counter, which"),
        (defaultdict(list), "s.a[0] is a collections.defaultdict, which"),
        ({"b": [{"c": {1: deque()}}]}, "s.a[0].b[0].c.1 is a collections.deque, which"),
        (Note("", open), "s.a[0].value is a builtins.builtin_function_or_method, which"),
        ({"b": np.array(["text"])}, "s.a[0].b is an array of <U4, which a checkpoint can't hold; keep numbers."),
        (np.array([None]), "s.a[0] is an array of object, which a checkpoint can't hold; keep numbers."),
        (np.datetime64("2020-01-01"), "s.a[0] is an array of datetime64[D], which"),
        (torch.zeros(2, dtype=torch.complex128), "s.a[0] is a tensor of torch.complex128, torch.strided, which"),
        (torch.eye(2).to_sparse(), "s.a[0] is a tensor of torch.float32, torch.sparse_coo, which"),
        (images([0]), "s.a[0] is Data of no single lesson; keep the parts, and join them where they are used"),
        (LESSONS[0].subset(torch.tensor([0])), "s.a[0] is Data of no single lesson;"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_refused_is_named_by_its_path(value, line):
    with pytest.raises(Unpackable) as error:
        pack_value({"a": [value]}, "s")
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_what_was_packed_does_not_change_with_the_original():
    tensor, array, module = torch.zeros(2), np.zeros(2), nn.Linear(1, 1)
    tree, tensors = pack_value([tensor, array, module], "x")
    kept = copy.deepcopy(tensors)
    tensor += 1
    array += 1
    with torch.no_grad():
        module.weight += 1
    assert same(tensors, kept)
    first, second = (unpack_value(tree, tensors, [None, None, module], LESSONS.__getitem__, CPU) for _ in range(2))
    first[0].add_(5)
    first[1] += 5
    assert second[0].tolist() == second[1].tolist() == [0, 0]
    assert same(tensors, kept)


# Strategies.


@dataclass
class Keeps(Strategy):
    """Keeps a little of everything, a module under two names, and what another strategy keeps."""

    weight: float = 1.0
    base: Strategy = field(default_factory=ER)

    def start(self, learner, syllabus):
        self.base.start(learner, syllabus)
        self.teacher = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.alias = [self.teacher]
        self.memory = self.base.memory
        self.rng = np.random.default_rng(0)
        self.count = 0


def started():
    strategy = Keeps()
    strategy.start(None, None)
    return strategy


def grown():
    strategy = started()
    with torch.no_grad():
        strategy.teacher[0].weight.fill_(3.0)
        strategy.teacher[1].running_mean.fill_(0.5)
    strategy.rng.random(4)
    strategy.count, strategy.later = 5, {"first": torch.ones(2)}
    strategy.base.memory.add(torch.ones(2, 1, 1, 1), torch.tensor([4, 5]), strategy.rng)
    return strategy


def restored(strategy, into):
    tree, tensors = pack(strategy)
    unpack(into, through_json(tree), tensors, LESSONS.__getitem__, CPU)
    return into


def test_a_strategy_gets_its_state_back():
    found = restored(grown(), started())
    assert found.count == 5
    assert torch.equal(found.later["first"], torch.ones(2))
    assert found.base.memory.y[:2].tolist() == [4, 5]
    assert found.base.memory.filled == 2
    assert found.rng.random() == grown().rng.random()
    assert (found.teacher[0].weight == 3).all()
    assert (found.teacher[1].running_mean == 0.5).all()


def test_modules_and_memories_are_filled_where_they_stand():
    into = started()
    teacher, weight, memory = into.teacher, into.teacher[0].weight, into.base.memory
    restored(grown(), into)
    assert into.teacher is teacher is into.alias[0]
    assert into.teacher[0].weight is weight
    assert into.memory is memory is into.base.memory


def test_options_are_no_state():
    strategy = grown()
    strategy.weight, strategy.base.memory_size = 7.0, 9
    tree, _ = pack(strategy)
    assert "weight" not in tree
    assert "memory_size" not in json.dumps(tree["base"])
    found = restored(strategy, started())
    assert (found.weight, found.base.memory_size) == (1.0, 500)


def test_what_came_later_is_forgotten_by_going_back():
    assert not hasattr(restored(started(), grown()), "later")


def test_a_module_that_start_did_not_make_is_not_put_back():
    strategy, into = started(), started()
    strategy.later = nn.Linear(1, 1)
    with pytest.raises(LookupError, match="a module that `start` did not make"):
        restored(strategy, into)


def test_the_path_leads_through_the_base():
    strategy = grown()
    strategy.base.log = [open]
    with pytest.raises(Unpackable, match=r"^strategy\.base\.log\[0\] is a builtins\.builtin_function_or_method, which"):
        pack(strategy)


# Bytes.


def test_bytes_kept():
    assert kept_bytes([torch.zeros(3), {"a": np.zeros(2)}, (LESSONS[0],), None, 5, "text"]) == 12 + 16 + 2 * (16 + 8)
    assert kept_bytes(nn.Linear(2, 3)) == 4 * 9
    assert kept_bytes(Note("", torch.zeros(2))) == kept_bytes(Slotted(torch.zeros(2))) == 8


def test_what_is_kept_twice_counts_once():
    tensor = torch.zeros(5)
    assert kept_bytes([tensor, tensor, {"a": tensor}]) == 20
    strategy = grown()
    assert kept_bytes([strategy.memory, strategy.base.memory]) == 2 * (4 + 8)


def test_data_of_one_lesson_on_a_device_keeps_its_lesson():
    assert Data(LESSONS[0].source, LESSONS[0].index, lesson=4).to(CPU).lesson == 4
