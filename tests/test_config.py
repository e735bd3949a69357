import re
from dataclasses import dataclass, field, fields
from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clbench import catalogue
from clbench.config import Preset, Recipe, plans, resolve
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.metrics.exams import Exams
from clbench.strategies.baselines import Naive
from clbench.strategies.distillation import DER, DERPP
from clbench.strategies.replay import ER
from clbench.strategy import Strategy
from clbench.streams.toy import Toy
from clbench.words import parse, read, to_text


@dataclass
class Around(Strategy):
    """A strategy around another."""

    depth: int = 1
    """how deep"""
    base: Strategy = field(default_factory=Strategy)
    """what it is around"""


@dataclass
class AroundReplay(Around):
    """A strategy around replay, unless it is told otherwise."""

    base: Strategy = field(default_factory=lambda: ER(memory_size=77))


@dataclass
class Lab(Toy):
    """A stream with recipes."""

    version: ClassVar[int] = 3


@dataclass
class Wide:
    """A model with an option that must be given."""

    name: str
    """which one"""
    width: int = 5
    """how wide"""

    def build(self, shape, classes):
        raise NotImplementedError


RECIPES = {
    "lab": {
        "house": Recipe({"model": "mlp", "model.hidden": 30, "learner.epochs": 2, "learner.lr": 0.2}, "ours"),
        "paper": Recipe({"model": "wide", "model.name": "a", "model.width": 9, "learner.lr": 0.3}, "Doe 2020"),
    }
}
PRESETS = [
    Preset("around", "lab", {"strategy.depth": 4, "learner.lr": 0.4, "learner.gamma": 0.4}, "outer"),
    Preset("around", "lab", {"strategy.depth": 5}, "paper's", recipe="paper"),
    Preset("around", "lab", {"strategy.depth": 6}, "with cnn", model="cnn"),
    Preset("inner", "lab", {"strategy.memory_size": 9, "learner.lr": 0.5, "learner.epochs": 5}, "small",
           when={"seen": 0}),
    Preset("inner", "lab", {"strategy.memory_size": 99, "learner.lr": 0.6}, "large", when={"seen": 1}),
]  # fmt: skip


@dataclass
class Inner(ER):
    """Replay with presets."""

    seen: int = 0
    """which preset"""


OURS = {
    "strategy": {
        "around": Around,
        "replayed": AroundReplay,
        "inner": Inner,
        "strong": DER(alpha=0.9),
        "strong_around": Around(depth=3, base=DERPP(beta=0.25)),
    },
    "stream": {"lab": Lab, "noisy": Toy(noise=90.0, experiences=2)},
    "model": {"wide": Wide},
}
"""entries beside those of the catalogues"""


@pytest.fixture(autouse=True)
def catalogues(monkeypatch):
    real = {kind: dict(catalogue.names(kind)) for kind in catalogue.KINDS}
    monkeypatch.setattr(catalogue, "names", lambda kind: {**real[kind], **OURS.get(kind, {})})


def plan(*words):
    found, _ = plans(words)
    assert len(found) == 1
    return found[0]


def mistake(*words):
    with pytest.raises(Mistake) as error:
        plans(words)
    assert "\n" not in str(error.value)
    return str(error.value)


# Words.


def words(*given):
    return parse(given)[0]


def test_a_word_sets_a_path():
    assert words("a.b=1", "c=x", "d=[1,2.5,x]", "e=null", "f=true", "g='1, 2'", "h={a:1}", "i=''") == [
        {"a.b": 1, "c": "x", "d": [1, 2.5, "x"], "e": None, "f": True, "g": "1, 2", "h": {"a": 1}, "i": ""}
    ]


def test_sweeps_are_the_product_in_the_order_of_the_words():
    assert words("a=1,2", "b=x", "c=range(3)") == [
        {"a": a, "b": "x", "c": c} for a in (1, 2) for c in (0, 1, 2)
    ]  # fmt: skip
    assert words("c=range(1,6,2)", "a=[1,2],[3]") == [{"c": c, "a": a} for c in (1, 3, 5) for a in ([1, 2], [3])]
    assert words() == [{}]


def test_options_of_the_command_are_apart():
    points, options = parse(["seed=0,1", "results=~/out", "workers=2"])
    assert points == [{"seed": 0}, {"seed": 1}]
    assert options == {"results": "~/out", "workers": 2}
    found, typed = plans(["stream=toy", "workers=2", "checkpoint=0", "mlflow=off"])
    assert (typed.workers, typed.checkpoint, typed.mlflow, typed.results) == (2, 0.0, "off", "results")
    assert not {"workers", "mlflow"} & found[0].values.keys()


@pytest.mark.parametrize(
    "text", ["~/photos", "/home/jürgen/bilder", "./a b", "ä", "x#y", "a~b c", "http://host:5000/x", "C:\\x", "日本"]
)
def test_paths_are_taken_as_the_shell_gives_them(text):
    assert words(f"stream.data={text}") == [{"stream.data": text}]


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
LINES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))
VALUES = st.recursive(SIMPLE | LINES, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@given(VALUES)
@example(["/a/b.yaml", "./x:y", "../x", "/", ".5"])
@example("it's # no 'comment', \\")
@example(["null", "TRUE", "1e5", "a,b", "", "é", "${x}", "~"])
def test_values_are_read_as_they_were_written(value):
    (point,) = words(f"path={to_text(value)}")
    assert repr(point["path"]) == repr(value)


@given(VALUES, st.text("# '\\ab", max_size=8))
@example("a # b", "")
@example(["'", " # "], "it's")
def test_a_configuration_is_read_as_it_was_written(tmp_path_factory, value, source):
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(f"# all\n\nstream.data: {to_text(value)}   # {source}\nseed: 3\n", encoding="utf-8")
    found = read(file)
    assert list(found) == ["stream.data", "seed"]
    assert repr(found["stream.data"]) == repr(value)


# Choices.


def test_a_run_that_is_told_nothing():
    found = plan()
    assert [found.values[root] for root in ("stream", "strategy", "model")] == ["digits", "naive", "mlp"]
    assert (found.seed, found.label) == (0, "naive")
    assert [type(probe).__name__ for probe in found.probes] == ["Exams", "Cost", "Timing", "Loss", "Drift"]


def test_choices_build_the_objects_of_the_catalogue():
    found = plan("stream=toy", "strategy=der", "strategy.alpha=2", "model=mlp", "model.hidden=3", "learner.lr=1")
    assert found.strategy == DER(alpha=2.0)
    assert found.stream == Toy()
    assert (found.model.hidden, found.learner.lr) == (3, 1.0)
    assert type(found.learner.lr) is float
    assert found.values["learner.lr"] == 1.0


def test_an_entry_brings_values_of_its_own():
    found = plan("stream=noisy", "strategy=strong")
    assert found.stream == Toy(noise=90.0, experiences=2)
    assert found.strategy == DER(alpha=0.9)
    assert found.sources["strategy.alpha"] == "entry"
    assert found.sources["strategy.memory_size"] == "default"
    assert plan("stream=noisy", "stream.noise=3").stream == Toy(noise=3.0, experiences=2)


def test_choices_nest():
    found = plan("stream=toy", "strategy=around", "strategy.base=around", "strategy.base.base=er",
                 "strategy.base.depth=2", "strategy.base.base.memory_size=7")  # fmt: skip
    assert found.strategy == Around(1, Around(2, ER(7)))
    assert found.label == "around(around(er))"
    assert found.versions() == {"stream": 1, "strategy": 1, "strategy.base": 1, "strategy.base.base": 1}


def test_what_stands_in_a_field_by_default_is_the_default():
    assert plan("stream=toy", "strategy=around").strategy == Around(1, Naive())
    found = plan("stream=toy", "strategy=replayed")
    assert found.strategy == AroundReplay(1, ER(77))
    assert found.label == "replayed(er)"
    assert plan("stream=toy", "strategy=replayed", "strategy.base=er").strategy == AroundReplay(1, ER())
    found = plan("stream=toy", "strategy=strong_around")
    assert found.strategy == Around(3, DERPP(beta=0.25))
    assert found.label == "strong_around(derpp)"
    assert plan("stream=toy", "strategy=strong_around", "strategy.base.beta=1").strategy == Around(3, DERPP(beta=1.0))


def test_a_model_by_kind_and_name():
    found = plan("stream=toy", "model=wide:deep/net-5")
    assert found.model == Wide("deep/net-5")
    assert (found.values["model"], found.values["model.name"]) == ("wide", "deep/net-5")


def test_probes_are_chosen_by_name():
    assert plan("stream=toy", "probes=[exams]").probes == [Exams()]


def test_every_point_of_a_sweep_is_a_plan():
    found, _ = plans(["stream=toy", "strategy=naive,er", "seed=range(3)"])
    assert [(p.label, p.seed) for p in found] == [(s, n) for s in ("naive", "er") for n in range(3)]
    assert len({id(p.stream) for p in found}) == 6


# Layers.


def test_default_below_recipe_below_preset_below_command():
    names = ["learner.momentum", "learner.epochs", "learner.lr", "learner.batch", "model.hidden", "strategy.depth"]
    found = plan("stream=lab", "strategy=around", "learner.batch=8")
    assert [found.values[n] for n in names] == [0.0, 2, 0.4, 8, 30, 4]
    recipe = "recipe house: ours"
    assert [found.sources[n] for n in names] == [
        "default", recipe, "preset: outer", "command line", recipe, "preset: outer",
    ]  # fmt: skip
    told = plan("stream=lab", "strategy=around", "learner.lr=0.9", "strategy.depth=8", "learner.epochs=7")
    assert [told.values[n] for n in names] == [0.0, 7, 0.9, 32, 30, 8]
    assert (found.preset(), told.preset()) == ("outer", "outer; by hand: learner.lr, strategy.depth")
    assert plan("stream=lab").preset() == "untuned"


def test_a_source_is_named_for_what_still_comes_from_it(tmp_path):
    lab = ("stream=lab", "strategy=around", "strategy.depth=8")
    assert plan(*lab, "learner.lr=0.4").preset() == "outer; by hand: strategy.depth"
    assert plan(*lab, "learner.lr=0.9", "learner.gamma=0.9").preset() == "untuned"
    assert plan("stream=lab", "strategy=around", "strategy.base=inner", "learner.epochs=1").preset() == (
        "outer; small; by hand: learner.epochs"
    ), "the rate of the inner preset, which the outer one replaces, is not the command's"
    file = tmp_path / "config.yaml"
    file.write_text(plan("stream=lab", "strategy=around").text(), encoding="utf-8")
    assert plan(f"config={file}", "seed=4", "strategy.depth=4").preset() == f"config {file}"
    assert plan(f"config={file}", "strategy.depth=3").preset() == f"config {file}; by hand: strategy.depth"


def test_a_preset_is_for_its_stream_recipe_model_and_options():
    assert plan("stream=toy", "strategy=around").strategy.depth == 1
    assert plan("stream=lab", "strategy=around", "recipe=paper").strategy.depth == 5
    assert plan("stream=lab", "strategy=around", "model=cnn").strategy.depth == 6
    assert plan("stream=lab", "strategy=inner").strategy.memory_size == 9
    found = plan("stream=lab", "strategy=inner", "strategy.seen=1")
    assert (found.strategy.memory_size, found.learner.lr, found.learner.epochs) == (99, 0.6, 2)
    assert plan("stream=lab", "strategy=inner", "strategy.seen=2").strategy.memory_size == 500


@pytest.mark.parametrize(
    ("size", "rate", "source"), [(200, 0.01, "preset: "), (500, 0.1, "preset: "), (300, 0.1, "default")]
)
def test_presets_that_hold_for_one_memory(size, rate, source):
    found = plan("stream=mnist", "strategy=er", "recipe=der2020", f"strategy.memory_size={size}")
    assert found.learner.lr == rate
    assert found.sources["learner.lr"].startswith(source)


def test_presets_of_the_inner_strategy_stand_below_those_of_the_outer_and_where_it_stands():
    found = plan("stream=lab", "strategy=around", "strategy.base=inner")
    assert found.strategy == Around(4, Inner(9))
    assert (found.learner.lr, found.learner.gamma, found.learner.epochs) == (0.4, 0.4, 5)
    assert (found.sources["learner.lr"], found.sources["learner.epochs"]) == ("preset: outer", "preset: small")
    assert found.sources["strategy.base.memory_size"] == "preset: small"
    large = plan("stream=lab", "strategy=around", "strategy.base=inner", "strategy.base.seen=1")
    assert large.strategy == Around(4, Inner(99, seen=1))
    deep = plan("stream=lab", "strategy=around", "strategy.base=around", "strategy.base.base=inner")
    assert deep.strategy == Around(4, Around(4, Inner(9)))


def test_what_stands_there_by_default_has_its_presets_too():
    chosen = plan("stream=mnist", "recipe=der2020", "strategy=replayed", "strategy.base=er")
    assert chosen.learner.lr == 0.1
    default = plan("stream=mnist", "recipe=der2020", "strategy=around")
    assert default.learner.lr == plan("stream=mnist", "recipe=der2020").learner.lr == 0.03
    assert default.values == plan("stream=mnist", "recipe=der2020", "strategy=around", "strategy.base=naive").values


def test_a_choice_drops_what_lower_layers_set_beneath_the_old_one():
    paper = plan("stream=lab", "recipe=paper")
    assert paper.model == Wide("a", 9)
    other = plan("stream=lab", "recipe=paper", "model=mlp")
    assert not {"model.name", "model.width"} & other.values.keys()
    assert (other.values["model"], other.learner.lr) == ("mlp", 0.3)
    assert plan("stream=lab", "recipe=paper", "model=wide").model == Wide("a", 9)
    assert "model.hidden" not in plan("stream=lab", "model=cnn").values
    assert plan("stream=lab", "recipe=paper", "model=wide:b").model == Wide("b", 9)


def test_a_choice_does_not_drop_what_its_own_layer_sets():
    assert "no options" in mistake("stream=toy", "model.hidden=5", "model=cnn")


# A configuration, and back.

RUNS = [
    ["stream=toy"],
    ["stream=lab", "strategy=around", "strategy.base=inner", "seed=7"],
    ["stream=lab", "recipe=paper", "probes=[exams]"],
    ["stream=mnist", "recipe=der2020", "strategy=derpp", "strategy.memory_size=200", "stream.order=[2,0,1]"],
    ["stream=cifar100", "recipe=xder2022", "strategy=gdumb", "learner.clip=1e-3", "learner.device=cpu"],
    ["stream=domains", "stream.data='/a # b/it\\'s, c: d'", "stream.domain=x", "stream.order=['a b',null_,'1','true']"],
    ["stream=folder", "stream.data=~/photos/ä", "strategy=strong_around"],
]  # fmt: skip


@pytest.mark.parametrize("words", RUNS, ids=lambda words: words[0])
def test_a_plan_from_its_own_text_is_the_same(tmp_path, words):
    found, file = plan(*words), tmp_path / "config.yaml"
    file.write_text(found.text(), encoding="utf-8")
    again = plan(f"config={file}")
    assert again.values == found.values
    assert (again.stream, again.strategy, again.model, again.learner) == (
        found.stream, found.strategy, found.model, found.learner,
    )  # fmt: skip
    assert again.hash({"a": "b"}) == found.hash({"a": "b"})
    assert (again.seed, again.label) == (found.seed, found.label)
    file.write_text(again.text(), encoding="utf-8")
    assert plan(f"config={file}").values == found.values


def test_the_text_names_every_value_and_its_source():
    found = plan("stream=lab", "strategy=around", "seed=3")
    lines = found.text().splitlines()
    assert len(lines) == len(found.values)
    assert len({line.index("  # ") for line in lines}) == 1
    start = {line.split("  ")[0]: line.partition("# ")[2] for line in lines}
    assert start["strategy.depth: 4"] == "preset: outer"
    assert start["strategy.base: naive"] == "default"
    assert start["seed: 3"] == "command line"
    assert start["learner.epochs: 2"] == "recipe house: ours"


def test_the_command_stands_above_a_configuration(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(plan("stream=lab", "strategy=inner", "learner.momentum=0.5").text())
    found = plan(f"config={file}", "learner.lr=0.01", "seed=4")
    assert (found.learner.lr, found.learner.momentum, found.seed) == (0.01, 0.5, 4)
    assert found.sources["learner.momentum"] == f"config {file}"
    other = plan(f"config={file}", "strategy=around")
    assert other.strategy == Around(1, Naive())
    assert other.learner.lr == 0.5
    swept, _ = plans([f"config={file}", "seed=range(3)"])
    assert [p.seed for p in swept] == [0, 1, 2]


def test_the_hash_is_of_what_numbers_depend_on():
    def hashed(*words, checksums=()):
        return plan("stream=toy", *words).hash(dict(checksums))

    base = hashed()
    assert len(base) == 12
    assert hashed("seed=5") == hashed("results=elsewhere") == hashed("workers=3", "checkpoint=0", "mlflow=off") == base
    assert hashed("learner.lr=0.1", "strategy=naive", "model.hidden=100") == base
    changes = ["learner.lr=0.2", "learner.threads=1", "learner.eval_batch=7", "strategy=er", "model.hidden=99"]
    changes += ["stream.noise=41", "stream.order=seed"]
    assert len({base, *map(hashed, changes)}) == len(changes) + 1
    assert hashed(checksums={"toy": "0"}.items()) != base


def test_the_hash_knows_the_versions_of_stream_and_strategies(monkeypatch):
    found = plan("stream=toy", "strategy=around", "strategy.base=er")
    before = found.hash({})
    monkeypatch.setattr(ER, "version", 2)
    assert found.hash({}) != before
    monkeypatch.undo()


def test_the_hash_does_not_know_where_data_lies():
    here, there = (plan("stream=folder", f"stream.data={path}").hash({"x": "1"}) for path in ("/a/x", "~/b/x"))
    assert here == there
    assert plan("stream=folder", "stream.data=cifar10").hash({}) != plan("stream=folder", "stream.data=mnist").hash({})


def test_a_folder_is_named_by_stream_strategy_hash_and_seed(tmp_path):
    found = plan("stream=toy", "strategy=around", "strategy.base=er", "seed=4")
    assert found.folder(tmp_path, {}) == tmp_path / "toy" / "around(er)" / found.hash({}) / "seed-4"


def test_rate_threads_and_device_are_no_protocol():
    def protocol(*words):
        return plan("stream=toy", *words).protocol()

    base = protocol()
    assert protocol("learner.lr=0.7", "learner.threads=1", "learner.device=cpu", "learner.eval_batch=3") == base
    assert protocol("strategy=er", "strategy.memory_size=3") == base
    assert protocol("learner.replay_batch=32") == base
    for word in ("learner.epochs=2", "learner.replay_batch=9", "model.hidden=3", "stream.order=seed", "stream.noise=3"):
        assert protocol(word) != base
    assert all(isinstance(value, str | int | float | bool | None) for value in base.values())


# Mistakes.


def listed(*names):
    return ", ".join(sorted(names))


PROBES = (
    "anytime, anytime100, calibration, cka, confusion, cost, detection, drift, exams, localisation, loss, online, "
    "plasticity, ranks, recovery, restoration, retrieval, sparsity, timing, usage"
)
SETTINGS = (
    "budget, checkpoint, config, first, learner, mlflow, model, probes, recipe, results, seed, strategy, stream, "
    "tuned, workers"
)
SWEPT = "only lists (A,B) and range(N) are swept over; intervals, globs and shuffles are not."
CHANGED = "additions (+), deletions (~) and packages (@) are not supported; write path=value."


MISTAKES = """
strategy=err
    There is no strategy named 'err'. Did you mean 'er'? There are: {STRATEGY}.
strategy=xyz
    There is no strategy named 'xyz'. There are: {STRATEGY}.
strategy=
    'strategy=' can't be read: nothing follows the '='; null stands for no value.
strategy=naive,err
    There is no strategy named 'err'. Did you mean 'er'? There are: {STRATEGY}.
strategy=around strategy.base=err
    There is no strategy named 'err'. Did you mean 'er'? There are: {STRATEGY}.
strategy=[er,der]
    strategy=[er,der]: a strategy is chosen by its name; to sweep write strategy=A,B.
strategy=null
    strategy=null: a strategy is chosen by its name; to sweep write strategy=A,B.
model=mpl
    There is no model named 'mpl'. Did you mean 'mlp'? There are: {MODEL}.
streem=toy
    There is no setting named 'streem'. Did you mean 'stream'? There are: {SETTINGS}.
lr=0.1
    There is no setting named 'lr'. Did you mean 'learner.lr'? There are: {SETTINGS}.
workers.x=1
    There is no setting named 'workers.x'. Did you mean 'workers'? There are: {SETTINGS}.
learner=sgd
    The learner is not chosen but set: learner.lr=0.03, learner.epochs=5, …
learner.epoch=3
    There is no option of learner named 'epoch'. Did you mean 'epochs'? There are: {LEARNER}.
learner.batch.size=3
    There is no setting named 'learner.batch.size': learner.batch=32 has no options.
seed.x=1
    There is no setting named 'seed.x': seed=0 has no options.
stream.experience=2
    There is no option of stream=toy named 'experience'. Did you mean 'experiences'? There are: {TOY}.
strategy.alpha=0.1
    There is no setting named 'strategy.alpha': strategy=naive has no options.
strategy=er strategy.alpha=1
    There is no option of strategy=er named 'alpha'. There are: every, memory_size.
strategy=er strategy.base=naive
    There is no option of strategy=er named 'base'. There are: every, memory_size.
strategy=er strategy.base.alpha=1
    There is no option of strategy=er named 'base'. There are: every, memory_size.
strategy=around strategy.base.alpha=1
    There is no setting named 'strategy.base.alpha': strategy.base=naive has no options.
strategy=around strategy.base=er strategy.base.alpha=1
    There is no option of strategy.base=er named 'alpha'. There are: every, memory_size.
model.hiden=3
    There is no option of model=mlp named 'hiden'. Did you mean 'hidden'? There are: depth, hidden.
model=cnn model.hidden=3
    There is no setting named 'model.hidden': model=cnn has no options.
model=wide
    model.name must be given: which one.
recipe=der2020
    There is no recipe for toy named 'der2020'. There are: house.
probes=exams
    probes=exams: input should be a valid list (a list is written probes=[A,B]).
probes=[exam]
    There is no probe named 'exam'. Did you mean 'exams'? There are: {PROBES}.
probes=[class/forgetting]
    'class/forgetting' is no probe, but a summary, computed from rows. Probes are: {PROBES}.
probes=[exams,exams]
    probes=[exams,exams]: each probe looks once.
learner.lr=0
    learner.lr=0: input should be greater than 0.
learner.lr=nan
    learner.lr=nan: it must be a finite number.
learner.lr=fast
    learner.lr=fast: input should be a valid number, unable to parse string as a number.
learner.lr=
    'learner.lr=' can't be read: nothing follows the '='; null stands for no value.
learner.lr=null
    learner.lr=null: input should be a valid number.
learner.lr=true
    learner.lr=true: true is no number.
learner.lr=[0.1,0.2]
    learner.lr=[0.1,0.2]: input should be a valid number.
learner.epochs=1.5
    learner.epochs=1.5: input should be a valid integer, got a number with a fractional part.
learner.epochs=0
    learner.epochs=0: input should be greater than or equal to 1.
learner.clip=None
    learner.clip=None: input should be a valid number, unable to parse string as a number (nothing is written null).
learner.keep_optimizer=maybe
    learner.keep_optimizer=maybe: input should be a valid boolean, unable to interpret input.
learner.optimizer=adagrad
    learner.optimizer=adagrad: input should be 'sgd', 'adam' or 'adamw'.
learner.milestones=3
    learner.milestones=3: input should be a valid tuple (a list is written learner.milestones=[A,B]).
stream.validation=1
    stream.validation=1: input should be less than 1.
stream.label={a:1}
    stream.label={a:1}: input should be a valid string.
stream.order=-1
    stream.order=-1: input should be 'natural' or 'seed'; or input should be greater than or equal to 0; or input
    should be a valid list (a list is written stream.order=[A,B]).
seed=-1
    seed=-1: input should be greater than or equal to 0.
seed=0,a
    seed=a: input should be a valid integer, unable to parse string as an integer.
seed=true
    seed=true: true is no number.
seed=0 seed=1
    'seed' is set twice; to sweep over values write seed=A,B.
seed=range(0)
    'seed=range(0)' sweeps over nothing.
seed=interval(0,1)
    'seed=interval(0,1)': {SWEPT}
seed=glob(*)
    'seed=glob(*)': {SWEPT}
seed=shuffle(1,2)
    'seed=shuffle(1,2)': {SWEPT}
seed=tag(a,choice(1,2))
    'seed=tag(a,choice(1,2))': {SWEPT}
+learner.lr=1
    '+learner.lr=1': {CHANGED}
++learner.lr=1
    '++learner.lr=1': {CHANGED}
~learner.lr
    '~learner.lr': {CHANGED}
learner@x=3
    'learner@x=3': {CHANGED}
--seed=3
    There is no flag '--seed=3' here; settings are written path=value, as in learner.lr=0.03.
again
    'again' can't be read: there is no '='. Settings are written path=value, as in stream=digits.
=3
    There is no setting named ''. There are: {SETTINGS}.
seed=[1,2
    'seed=[1,2' can't be read: no viable alternative at input '[1,2'. Quote values that hold spaces or commas.
strategy=er,
    'strategy=er,' can't be read: nothing follows the last comma. One value is written strategy=er.
learner.momentum=1
    learner.momentum=1: input should be less than 1.
learner.milestones=[-1]
    learner.milestones=[-1]: input should be greater than 0.
results=a,b
    'results' takes one value; it can't be swept over.
workers=0
    workers=0: input should be greater than or equal to 1.
workers=two
    workers=two: input should be a valid integer, unable to parse string as an integer.
checkpoint=-1
    checkpoint=-1: input should be greater than or equal to 0.
config=nowhere.yaml
    config=nowhere.yaml can't be read: No such file or directory.
config=a.yaml recipe=house
    config=a.yaml can't be read: No such file or directory.
"""
"""words given beside stream=toy, and what is said of them"""


def told(text):
    """The pairs of such a text; lines that are set in belong together."""
    lists = {
        kind.upper(): listed(*catalogue.names(kind), *OURS.get(kind, ())) for kind in ("strategy", "stream", "model")
    }
    lists |= {kind.__name__.upper(): listed(*(f.name for f in fields(kind))) for kind in (Learner, Toy)}
    for name, value in {**lists, "SETTINGS": SETTINGS, "PROBES": PROBES, "SWEPT": SWEPT, "CHANGED": CHANGED}.items():
        text = text.replace(f"{{{name}}}", value)
    blocks = re.findall(r"^(\S.*)\n((?: .*\n)+)", text, re.MULTILINE)
    return [(words, " ".join(lines.split("\n    ")).strip()) for words, lines in blocks]


@pytest.mark.parametrize(("words", "line"), told(MISTAKES))
def test_mistakes_are_one_line(words, line):
    words = words.split(" ")
    given = words if words[0].startswith("config=") else ["stream=toy", *words]
    assert mistake(*given) == line


def test_a_line_break_is_no_value():
    assert mistake("stream=folder", "stream.data=a\nb") == r"'stream.data=a\nb' holds a line break; no setting can."


def test_a_wrong_stream_is_said_before_anything_else():
    assert mistake("stream=toi", "learner.lr=-1").startswith("There is no stream named 'toi'. Did you mean 'toy'?")


WRONG_FILES = """
stream toy
    FILE:1: 'stream toy' is not 'path: value'.
# note|stream: toy|seed=3
    FILE:3: 'seed=3' is not 'path: value'.
stream: toy|seed: 0,1
    FILE is more than one run; sweeps stand in the command: seed=range(5).
stream: toy|results: x
    FILE: results is no part of a run; it stands in the command alone.
config: x
    FILE: config is no part of a run; it stands in the command alone.
stream: toy|stream: toy
    FILE: 'stream' is set twice; to sweep over values write stream=A,B.
learner.lr: [
    FILE: 'learner.lr=[' can't be read: no viable alternative at input '['. Quote values that hold spaces or commas.
stream: toi
    There is no stream named 'toi'. Did you mean 'toy'? There are: {STREAM}.
hydra: 1
    There is no setting named 'hydra'. There are: {SETTINGS}.
learner.lr: -1
    learner.lr=-1: input should be greater than 0.
"""


@pytest.mark.parametrize(("text", "line"), told(WRONG_FILES))
def test_mistakes_in_a_configuration(tmp_path, text, line):
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("|", "\n"))
    assert mistake(f"config={file}") == line.replace("FILE", str(file))


def test_a_recipe_is_not_laid_over_a_configuration(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("stream: toy")
    assert mistake(f"config={file}", "recipe=house") == (
        "config=FILE takes every value as it stands; a recipe can't be laid over it."
    )


def test_a_configuration_that_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    assert mistake(f"config={tmp_path}/x") == f"config={tmp_path}/x can't be read: it is no text."


def test_the_point_is_left_as_it_was():
    point = {"stream": "toy", "model": "wide:x", "strategy": "er"}
    resolve(point)
    assert point == {"stream": "toy", "model": "wide:x", "strategy": "er"}
