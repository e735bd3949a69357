import re
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import EntryPoint

import pytest

from clbench import catalogue
from clbench.config import resolve
from clbench.errors import Mistake
from clbench.metric import Probe, Summary
from clbench.strategy import Strategy
from clbench.stream import Stream

EVERY = [(kind, name) for kind in catalogue.KINDS for name in catalogue.names(kind)]
TYPES = {"stream": Stream, "strategy": Strategy, "metric": (Probe, Summary), "model": object}


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda part: str(part))
def test_every_reference_resolves_to_what_its_catalogue_is_of(kind, name):
    thing = catalogue.resolve(kind, name)
    sort = thing if isinstance(thing, type) else type(thing)
    assert issubclass(sort, TYPES[kind])
    assert is_dataclass(sort)
    assert (sort.__doc__ or "").strip()
    if kind == "model":
        assert callable(sort.build)


RECIPES = [
    (stream, recipe)
    for stream in catalogue.names("stream")
    for recipe in getattr(catalogue.home("stream", stream), "RECIPES", {}).get(stream, {})
]
PRESETS = [
    preset
    for name in catalogue.names("strategy")
    for preset in getattr(catalogue.home("strategy", name), "PRESETS", ())
    if preset.strategy == name
]


@pytest.mark.parametrize(("stream", "recipe"), RECIPES)
def test_every_recipe_is_one_that_a_run_can_take(stream, recipe):
    values = catalogue.home("stream", stream).RECIPES[stream][recipe].values
    plan = resolve({"stream": stream, "recipe": recipe})
    assert values
    for path, value in values.items():
        assert plan.values[path] == value
        assert "model" in values or not path.startswith("model.")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: f"{p.strategy}-{p.stream}-{p.recipe}-{dict(p.when)}")
def test_every_preset_is_one_that_a_run_can_take(preset):
    point = {"stream": preset.stream, "strategy": preset.strategy, "recipe": preset.recipe}
    point |= {"model": preset.model} if preset.model else {}
    plan = resolve(point | {f"strategy.{name}": value for name, value in preset.when.items()})
    assert preset.values
    assert preset.source
    for path, value in preset.values.items():
        assert plan.values[path] == value
        assert plan.sources[path] == f"preset: {preset.source}"


def test_an_unknown_name():
    with pytest.raises(Mistake, match=r"^There is no strategy named 'derp'\. Did you mean 'derpp'\? There are: "):
        catalogue.resolve("strategy", "derp")
    with pytest.raises(Mistake, match=r"^There is no model named 'zzz'\. There are: "):
        catalogue.resolve("model", "zzz")


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("strategy", "DER++", "'derpp'"),
        ("strategy", "gs-lora", "'gs_lora'"),
        ("metric", "forgetting", "'class/forgetting' or 'task/forgetting'"),
    ],
)
def test_names_as_papers_have_them(kind, name, meant):
    with pytest.raises(Mistake, match=rf"There is no {kind} named '{re.escape(name)}'\. Did you mean {meant}\?"):
        catalogue.resolve(kind, name)


def test_reading_names_imports_nothing_heavy():
    code = (
        "import sys\nfrom clbench import catalogue\n"
        "for kind in ('stream', 'strategy', 'model'): catalogue.names(kind)\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'mlflow', 'pandas', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Plug-ins.


@dataclass
class Brought(Strategy):
    """Brought by a plug-in."""

    strength: int = 1


FIRST = {"mine": f"{__name__}:Brought", "er": Brought}
SECOND = {"mine": Brought(strength=5), "yours": Brought(strength=5)}
THIRD = {"yours": Brought(strength=5)}


class Distribution:
    def __init__(self, name):
        self.name = name


class Brings(EntryPoint):
    """An entry point of an installed distribution."""

    @property
    def dist(self):
        return Distribution(self.value.partition(":")[2].lower() + "-package")


@pytest.fixture
def installed(monkeypatch):
    """Makes distributions with these catalogues be installed."""
    real = catalogue.entry_points

    def install(*names):
        def entry_points(group):
            ours = [Brings(name.lower(), f"{__name__}:{name}", group) for name in names]
            return [*real(group=group), *(ours if group == "clbench.strategies" else [])]

        monkeypatch.setattr(catalogue, "entry_points", entry_points)
        catalogue.names.cache_clear()

    yield install
    monkeypatch.undo()
    catalogue.names.cache_clear()


def test_a_plug_in_is_found_as_ours_are(installed):
    installed("THIRD")
    assert "er" in catalogue.names("strategy")
    assert catalogue.resolve("strategy", "yours") == Brought(strength=5)
    assert catalogue.home("strategy", "yours") is sys.modules[__name__]
    plan = resolve({"stream": "toy", "strategy": "yours"})
    assert plan.strategy == Brought(strength=5)
    assert [f.name for f in fields(plan.strategy)] == ["strength"]
    assert "yours" not in catalogue.names("stream")


class Bare(Brought):
    """Its author forgot what makes fields options."""

    weight: int = 3


class Made(Brought):
    """Its author wrote what a dataclass writes."""

    def __init__(self, weight):
        self.weight = weight


FOURTH = {"bare": f"{__name__}:Bare", "itself": Bare, "made": Made}


@pytest.mark.parametrize("name", ["bare", "itself"])
def test_a_class_whose_fields_are_no_options(installed, name):
    installed("FOURTH")
    with pytest.raises(Mistake, match="has an __init__ of its own; options are the fields of a @dataclass"):
        catalogue.resolve("strategy", "made")
    with pytest.raises(Mistake, match=rf"The strategy '{name}' .* lacks @dataclass, without which weight is no option"):
        catalogue.resolve("strategy", name)


@pytest.mark.parametrize(
    ("plugins", "line"),
    [
        (
            ["FIRST"],
            "Two plug-ins bring a strategy named 'er': clbench and first-package. Uninstall one, or ask its author for "
            "another name.",
        ),
        (
            ["THIRD", "SECOND"],
            "Two plug-ins bring a strategy named 'yours': second-package and third-package. Uninstall one, or ask its "
            "author for another name.",
        ),
    ],
)
def test_two_plug_ins_with_one_name(installed, plugins, line):
    installed(*plugins)
    with pytest.raises(Mistake) as error:
        catalogue.names("strategy")
    assert str(error.value) == line


def test_a_plug_in_that_can_not_be_read(installed):
    installed("NOWHERE")
    with pytest.raises(Mistake) as error:
        catalogue.names("strategy")
    assert str(error.value) == (
        f"The plug-in nowhere-package ({__name__}:NOWHERE) can't be read: "
        f"module '{__name__}' has no attribute 'NOWHERE'."
    )


NOT_A_CATALOGUE = ["er"]


def test_a_plug_in_that_brings_no_dictionary(installed):
    installed("NOT_A_CATALOGUE")
    with pytest.raises(Mistake, match=r"^The plug-in not_a_catalogue-package \(.*\) can't be read: "):
        catalogue.names("strategy")


BROKEN = {"lost": "clbench.strategies.replay:Lost", "gone": "no.such.module:X"}


@pytest.mark.parametrize("name", ["lost", "gone"])
def test_a_name_that_leads_nowhere(installed, name):
    installed("BROKEN")
    with pytest.raises(Mistake, match=rf"^The strategy '{name}' can't be imported from {BROKEN[name]}: "):
        catalogue.resolve("strategy", name)
