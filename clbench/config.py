"""From the words of a command to the objects of a run; the object is its own config.

`group=name` chooses from a catalogue, wherever a field has a catalogued type; `dotted.path=value` sets a field. The
grammar is Hydra's, and values are typed by the fields. Layers, lowest first: class defaults < the catalogue entry's
own values < recipe < presets, innermost strategy first < what `clbench tune` chose < command line. Names resolve
through catalogues only: a config can't run code.
"""

from __future__ import annotations

import hashlib
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench import catalogue
from clbench.errors import Mistake, near, unknown
from clbench.fields import default_of, documentation
from clbench.pretrained import Pretrained
from clbench.types import Count, Natural
from clbench.words import Options, Values, parse, read, to_text, typed, typed_value

if TYPE_CHECKING:
    from clbench.budget import Budget
    from clbench.learner import Learner, Model
    from clbench.metric import Probe
    from clbench.strategy import Strategy
    from clbench.stream import Stream


@dataclass(frozen=True)
class Recipe:
    """How a stream is run: model and learner settings that belong together."""

    values: Values
    """where it sets options of a model it chooses that model too, so that another choice drops them"""
    source: str
    """whose: a paper, or ours"""


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters of a strategy for a stream, with their source. Of two that fit, the later one stands above."""

    strategy: str
    stream: str
    values: Values
    """`strategy.` stands for wherever the strategy stands"""
    source: str
    """a paper, `tuned here` (by which protocol: clbench/tuning.py), or untuned"""
    recipe: str = "house"
    model: str | None = None
    """only with this model; None: with any"""
    when: Values = field(default_factory=dict)
    """only where these options of the strategy have these values; `base`: only around this strategy, by its name"""


ROOTS = {"stream": "digits", "strategy": "naive", "model": "mlp"}
RUN = ("seed", "recipe", "probes", "config", "first", "tuned")
PROBES = ("exams", "cost", "timing", "loss", "drift")
UNCHOSEN = {"learner": "learner.lr=0.03, learner.epochs=5, …", "budget": "budget.flops=1e13 or budget.naive=1.1"}
"""what has options and no catalogue, and how these are written"""
GROUPS = (*ROOTS, *UNCHOSEN, *RUN, *(f.name for f in fields(Options)))
"""what a setting can begin with"""


@dataclass
class Plan:
    """One run, resolved: its objects, and every value with its source."""

    stream: Stream
    strategy: Strategy
    model: Model
    learner: Learner
    budget: Budget
    probes: list[Probe]
    seed: int
    values: dict[str, Any]
    """path to value, choices by name"""
    sources: dict[str, str]
    """path to where the value comes from"""
    presets: dict[str, dict[str, bool]]
    """each source of hyper-parameters to the paths that it sets, and whether they have its value"""

    @property
    def label(self) -> str:
        """The strategy's name, with what it is wrapped around: `fpf(er)`."""
        return _label(self.values, "strategy")

    def text(self) -> str:
        """The flat configuration: `path: value  # source`, a line each."""
        lines = [f"{path}: {to_text(value)}" for path, value in self.values.items()]
        width = max(map(len, lines))
        ends = [self.sources.get(path, "default") for path in self.values]
        return "".join(f"{line:<{width}}  # {end}\n" for line, end in zip(lines, ends, strict=True))

    def versions(self) -> dict[str, int]:
        """Versions of stream and strategies, by path."""
        found = {"stream": self.stream.version}
        thing, path = self.strategy, "strategy"
        while True:
            found[path] = thing.version
            thing, path = getattr(thing, "base", None), f"{path}.base"  # type: ignore[assignment]
            if thing is None:
                return found

    def checksums(self) -> dict[str, str]:
        """The content of the data sets and of the weights that the run begins with, name to sha256."""
        return {**self.stream.checksums(), **(self.model.checksums() if isinstance(self.model, Pretrained) else {})}

    def hash(self, checksums: Mapping[str, str]) -> str:
        """What the run's numbers depend on, but for the seed: 12 hexadecimal digits.

        Options that are null are left out, so that a new option which is null by default makes no other hash.
        """
        text = {
            path: to_text(value)
            for path, value in self.values.items()
            if path != "seed" and value is not None and not (path.endswith((".data", ".weights")) and "/" in str(value))
        }
        content = json.dumps([text, sorted(checksums.values()), self.versions()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def folder(self, results: Path, checksums: Mapping[str, str]) -> Path:
        """Where the run is recorded."""
        return results / self.values["stream"] / self.label / self.hash(checksums) / f"seed-{self.seed}"

    def protocol(self) -> dict[str, Any]:
        """Everything that two rows must share to be ranked together (docs/architecture.md, Protocols)."""
        from clbench.learner import Learner

        ours = {"lr", "threads", "device", "eval_batch"}
        learner = {f.name: getattr(self.learner, f.name) for f in fields(Learner) if f.name not in ours}
        learner["replay_batch"] = self.learner.replay_batch or self.learner.batch
        if self.learner.schedule != "multistep":
            del learner["milestones"], learner["gamma"]
        model = {p: v for p, v in self.values.items() if p == "model" or p.startswith("model.")}
        if isinstance(self.model, Pretrained):
            model = {**{p: v for p, v in model.items() if p != "model.weights"}, **self.model.protocol()}
        stream = {"stream": self.values["stream"], "stream version": self.stream.version, **self.stream.protocol()}
        budget = {"compute budget": str(self.budget)} if str(self.budget) != "none" else {}
        return {key: _plain(value) for key, value in {**stream, **model, **learner, **budget}.items()}

    def preset(self) -> str:
        """Where the strategy's hyper-parameters come from, and which of them the command set to another value."""
        told = {source: paths for source, paths in self.presets.items() if any(paths.values())}
        by_hand = sorted({path for paths in told.values() for path, stands in paths.items() if not stands})
        found = sorted(source.removeprefix("preset: ") for source in told)
        return "; ".join(found + [f"by hand: {', '.join(by_hand)}"] * bool(by_hand)) or "untuned"


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else to_text(value)


def _label(values: Values, path: str) -> str:
    base = f"{path}.base"
    return f"{values[path]}({_label(values, base)})" if base in values else str(values[path])


def plans(words: Sequence[str]) -> tuple[list[Plan], Options]:
    """Every run that a command asks for, each resolved before the first one starts.

    Raises:
        Mistake: a name, a path or a value is wrong.
    """
    points, given = parse(words)
    check_names(points)
    return [resolve(point) for point in points], typed(Options, given)


def check_names(points: Iterable[Values]) -> None:
    """Look the chosen names up, before anything heavy is imported.

    Raises:
        Mistake: a stream, strategy, model or group that is not there.
    """
    for point in points:
        for path, value in point.items():
            root = path.partition(".")[0]
            if root not in GROUPS:
                raise unknown("setting", root, GROUPS, _misplaced(root, point))
            if path in UNCHOSEN:
                raise Mistake(f"The {path} is not chosen but set: {UNCHOSEN[path]}")
            if path in ROOTS:
                if not isinstance(value, str):
                    raise Mistake(
                        f"{path}={to_text(value)}: a {path} is chosen by its name; to sweep write {path}=A,B."
                    )
                name = value.partition(":")[0] if path == "model" else value
                if name not in catalogue.names(path):
                    raise unknown(path, name, catalogue.names(path))


def _misplaced(name: str, point: Values) -> list[str]:
    """Where an option of this name has its place: of the learner, or of what is chosen."""
    from clbench.learner import Learner

    chosen = {"learner": Learner} | {
        kind: catalogue.resolve(kind, value)
        for kind, value in point.items()
        if kind in ROOTS and value in catalogue.names(kind)
    }
    return [f"{kind}.{name}" for kind, entry in chosen.items() if name in {option.name for option in fields(entry)}]


def resolve(point: Values) -> Plan:
    """One run from its words (path to value).

    Raises:
        Mistake: a name, a path or a value is wrong.
    """
    point = _split_choices(point)
    if "config" in point:
        stated = read(Path(str(point["config"])).expanduser())
        source, rest = f"config {point['config']}", {k: v for k, v in point.items() if k != "config"}
        if "recipe" in rest:
            raise Mistake("config=FILE takes every value as it stands; a recipe can't be laid over it.")
        if "tuned" in rest:
            raise Mistake("config=FILE takes every value as it stands; tuned=FILE can't be laid under it.")
        check_names([_split_choices(stated)])
        return _Resolver([(source, stated), ("command line", rest)], whole=True).plan()
    rest = {k: v for k, v in point.items() if k != "tuned"}
    return _Resolver([*(_tuned(str(point["tuned"]), rest) if "tuned" in point else []), ("command line", rest)]).plan()


def _tuned(file: str, given: Values) -> list[tuple[str, Values]]:
    """What `clbench tune` wrote, as layers: what was set while tuning, and what was chosen."""
    stated = read(Path(file).expanduser(), "tuned")
    source, over = stated.pop("source", None), stated.pop("over", None)
    if not isinstance(source, str) or not isinstance(over, list) or not stated.keys() >= set(over):
        raise Mistake(f"tuned={file} is not as clbench tune writes it: source, over, and values. Else: config={file}.")
    stated = _split_choices(stated)
    check_names([stated])
    for path, name in stated.items():
        if re.fullmatch(r"strategy(\.base)*", path) and given.get(path, name) != name:
            raise Mistake(f"tuned={file} is for {path}={name}, not for {path}={to_text(given[path])}.")
    chosen = {path: stated.pop(path) for path in over}
    return [(f"tuned {file}", stated), (f"preset: {source}", chosen)]


def _split_choices(point: Values) -> dict[str, Any]:
    """`model=timm:NAME` is `model=timm model.name=NAME`."""
    found: dict[str, Any] = {}
    for path, value in point.items():
        if path == "model" and isinstance(value, str) and ":" in value:
            found[path], found[f"{path}.name"] = value.split(":", 1)
        else:
            found[path] = value
    return found


def _highest(layers: Sequence[tuple[str, Values]], path: str) -> Any:
    """What the highest layer that sets `path` sets it to; None: no layer does."""
    return next((values[path] for _, values in reversed(layers) if path in values), None)


class _Resolver:
    """Puts the layers together, and builds the objects."""

    def __init__(self, layers: Sequence[tuple[str, Values]], whole: bool = False) -> None:
        self.layers = list(layers)
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.known: set[str] = set(RUN)
        if whole:
            self.recipe = self.look("recipe", "house")[0]
            return
        stream = self.choice("stream")
        self.recipe = str(self.look("recipe", "house")[0])
        recipe = self._recipe(stream)
        self.layers[0:0] = recipe
        self.layers[len(recipe) : len(recipe)] = self._presets(stream)

    def look(self, path: str, default: Any) -> tuple[Any, str]:
        """The value of the highest layer that sets `path`, and the layer's name."""
        for number in reversed(range(len(self.layers))):
            source, values = self.layers[number]
            if path in values and not self._dropped(path, number):
                return values[path], source
        return default, "default"

    def _dropped(self, path: str, layer: int) -> bool:
        """Whether a higher layer chose another thing above `path`: what was set for the old one falls away."""
        parts = path.split(".")
        for end in range(1, len(parts)):
            above = ".".join(parts[:end])
            before = _highest(self.layers[: layer + 1], above)
            if before is not None and before != _highest(self.layers, above):
                return True
        return False

    def choice(self, path: str) -> str:
        return str(self.look(path, ROOTS.get(path))[0])

    def _recipe(self, stream: str) -> list[tuple[str, Values]]:
        recipes: dict[str, Recipe] = getattr(catalogue.home("stream", stream), "RECIPES", {}).get(stream, {})
        if self.recipe not in recipes:
            if self.recipe == "house":
                return []
            raise unknown(f"recipe for {stream}", self.recipe, {"house", *recipes})
        return [(f"recipe {self.recipe}: {recipes[self.recipe].source}", recipes[self.recipe].values)]

    def _presets(self, stream: str) -> list[tuple[str, Values]]:
        """Presets of the strategies, innermost first."""
        found: list[tuple[str, Values]] = []
        path, default = "strategy", None
        while True:
            name, _, thing = self.entry(path, "strategy", default)
            fitting: list[tuple[str, Values]] = []
            for preset in getattr(catalogue.home("strategy", name), "PRESETS", ()):
                if (preset.strategy, preset.stream, preset.recipe) != (name, stream, self.recipe):
                    continue
                if preset.model not in (None, self.choice("model")):
                    continue
                defaults = {f.name: _named(default_of(thing, f)) for f in fields(thing)}
                if all(self.look(f"{path}.{k}", defaults.get(k))[0] == v for k, v in preset.when.items()):
                    values = {re.sub(r"^strategy\b", path, k): v for k, v in preset.values.items()}
                    fitting.append((f"preset: {preset.source}", values))
            found[0:0] = fitting
            base = next((f for f in fields(thing) if f.name == "base"), None)
            if base is None:
                return found
            path, default = f"{path}.base", default_of(thing, base)

    def presets(self) -> dict[str, dict[str, bool]]:
        """Each source of hyper-parameters to the paths that no higher one sets, and whether the command leaves them as
        they are.
        """
        *lower, (_, command) = self.layers
        highest = {
            path: (source, value)
            for number, (source, values) in enumerate(lower)
            for path, value in values.items()
            if not self._dropped(path, number)
        }
        found: dict[str, dict[str, bool]] = {}
        for path, (source, value) in highest.items():
            if source.startswith(("preset: ", "config ")) and path.startswith(("strategy.", "learner.")):
                found.setdefault(source, {})[path] = command.get(path, value) == value
        return found

    def plan(self) -> Plan:
        from clbench.beginning import Beginning
        from clbench.budget import Budget
        from clbench.learner import Learner

        self.note("recipe", self.recipe, self.look("recipe", "house")[1])
        stream = self.chosen("stream", "stream")
        model = self.chosen("model", "model")
        strategy = self.chosen("strategy", "strategy")
        learner = self.built(Learner, "learner", {})
        budget = self.built(Budget, "budget", {})
        names, source = self.look("probes", list(PROBES))
        names = typed_value("probes", names, list[str])
        probes = [self._probe(name) for name in names]
        if len(set(names)) < len(names):
            raise Mistake(f"probes={to_text(names)}: each probe looks once.")
        self.note("probes", names, source)
        seed, source = self.look("seed", 0)
        seed = typed_value("seed", seed, Natural)
        self.note("seed", seed, source)
        first, source = self.look("first", None)
        if first is not None:
            stream = Beginning(stream, typed_value("first", first, Count))
            self.note("first", first, source)
        self._check_paths()
        return Plan(stream, strategy, model, learner, budget, probes, seed, self.values, self.sources, self.presets())

    def _probe(self, name: str) -> Any:
        from clbench.metric import Summary

        there = sorted(n for n, thing in catalogue.names("metric").items() if not isinstance(thing, Summary))
        if name in catalogue.names("metric") and name not in there:
            raise Mistake(f"'{name}' is no probe, but a summary, computed from rows. Probes are: {', '.join(there)}.")
        if name not in there:
            raise unknown("probe", name, there)
        return catalogue.resolve("metric", name)()

    def note(self, path: str, value: Any, source: str) -> None:
        self.values[path], self.sources[path] = value, source

    def entry(self, path: str, kind: str, default: Any = None) -> tuple[str, str, Any]:
        """What is chosen at `path` from the catalogue of its kind, or else `default`: name, source, and itself."""
        name, source = self.look(path, ROOTS.get(path))
        if name is not None:
            return str(name), source, catalogue.resolve(kind, str(name))
        name = name_of(kind, default)
        found = catalogue.resolve(kind, name)
        return name, source, default if type(default) in (found, type(found)) else found

    def chosen(self, path: str, kind: str, default: Any = None) -> Any:
        """The object that stands at `path`."""
        name, source, entry = self.entry(path, kind, default)
        self.note(path, name, source)
        self.known.add(path)
        if isinstance(entry, type):
            return self.built(entry, path, {})
        return self.built(type(entry), path, {f.name: getattr(entry, f.name) for f in fields(entry)})

    def built(self, kind: type, path: str, own: Mapping[str, Any]) -> Any:
        """An object of a dataclass, its fields taken from the layers, or else from `own` or the class."""
        hints = typing.get_type_hints(kind, include_extras=True)
        given = {}
        for option in fields(kind):
            where = f"{path}.{option.name}"
            self.known.add(where)
            nested = _kind_of(hints[option.name])
            if nested:
                given[option.name] = self.chosen(where, nested, own.get(option.name, default_of(kind, option)))
                continue
            missing = object()
            value, source = self.look(where, missing)
            if value is missing:
                value = own.get(option.name, default_of(kind, option))
                if value is MISSING:
                    raise Mistake(
                        f"{where} must be given: {documentation(kind).get(option.name, 'it has no default')}."
                    )
                source = "entry" if option.name in own and value != default_of(kind, option) else "default"
            else:
                value = typed_value(where, value, hints[option.name])
            given[option.name] = value
            self.note(where, value, source)
        return kind(**given)

    def _check_paths(self) -> None:
        for number, (_, values) in enumerate(self.layers):
            for path in values:
                if path not in self.known and not self._dropped(path, number):
                    raise self._unknown(path)

    def _unknown(self, path: str) -> Mistake:
        """Says what there is where `path` leaves what is known."""
        above, _, leaf = path.rpartition(".")
        while above and above not in (*self.values, *UNCHOSEN):
            above, _, leaf = above.rpartition(".")
        if not above:
            return unknown("setting", path, GROUPS)
        options = [k.rpartition(".")[2] for k in self.known if k.rpartition(".")[0] == above]
        owner = above if above in UNCHOSEN else f"{above}={to_text(self.values[above])}"
        if not options:
            return Mistake(f"There is no setting named '{path}': {owner} has no options.")
        elsewhere = [] if near(leaf, options) else [path for path in self.known if path.rpartition(".")[2] == leaf]
        return unknown(f"option of {owner}", leaf, options, elsewhere)


def name_of(kind: str, thing: Any) -> str:
    """The name of what stands in a field by default."""
    for name in catalogue.names(kind):
        entry = catalogue.resolve(kind, name)
        if type(thing) in (entry, type(entry)):
            return name
    return ROOTS[kind]


def _named(value: Any) -> Any:
    """A default as a preset's `when` states it: a strategy by its name, other values as they are."""
    return name_of("strategy", value) if is_dataclass(value) else value


def _kind_of(hint: Any) -> str | None:
    """The catalogue that a field's type belongs to; None: it is a plain value."""
    if not isinstance(hint, type) or not is_dataclass(hint):
        return None
    from clbench.strategy import Strategy
    from clbench.stream import Stream

    return "strategy" if issubclass(hint, Strategy) else "stream" if issubclass(hint, Stream) else None
