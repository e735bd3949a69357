"""What a user sees: runs as they go, and entries of the catalogues."""

from __future__ import annotations

import ast
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench import catalogue
from clbench.errors import Mistake, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from clbench.config import Preset, Recipe
    from clbench.stream import Stream
    from clbench.sweep import Event, Task

LISTED = {heading: kind for kind, heading in catalogue.KINDS.items()}


# Runs.


def display(work: Sequence[Task]) -> Display:
    """A live table on a terminal, plain lines elsewhere."""
    return Live(work) if sys.stdout.isatty() else Display(work)


def clock(seconds: float) -> str:
    """Seconds as a person reads them: `7 s`, `3 min 20 s`, `2 h 5 min`."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def names(work: Sequence[Task]) -> list[str]:
    """What tells runs apart: stream, strategy, the options that vary between runs of these two, and the seed."""
    found: list[str] = []
    values: dict[tuple[str, str, str], set[str]] = {}
    for task in work:
        for path, value in task.meta["config"].items():
            values.setdefault((task.meta["stream"], task.meta["strategy"], path), set()).add(value)
    for task in work:
        who = (task.meta["stream"], task.meta["strategy"])
        varying = [f"{p}={v}" for p, v in task.meta["config"].items() if p != "seed" and len(values[*who, p]) > 1]
        found.append(" ".join((*who, *varying, f"seed {task.meta['seed']}")))
    return found


class Display:
    """Plain lines: one when a run ends, and one about every half minute while it goes on."""

    def __init__(self, work: Sequence[Task]) -> None:
        self.work = work
        self.names = names(work)
        self.ended: dict[int, Event] = {}
        self.spoken: dict[int, float] = {}
        self.began = time.monotonic()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self, event: Event) -> None:
        """Take note of an event, and show it."""
        number = event["run"]
        match event["event"]:
            case "start":
                self.spoken[number] = time.monotonic()
            case "progress":
                if time.monotonic() - self.spoken[number] > 30:
                    self.spoken[number] = time.monotonic()
                    self.line(f"{self.names[number]}: {self.state(event)}")
            case "say":
                self.line(f"{self.names[number]}: {event['line']}")
            case "end":
                self.ended[number] = event
                self.line(f"[{len(self.ended)}/{len(self.work)}] {self.names[number]}: {self.end(event)}")

    def line(self, text: str) -> None:
        print(text, flush=True)

    def state(self, event: Event) -> str:
        """How far a run is, in words."""
        parts = [f"experience {event['experience']} of {event['experiences']}", f"step {event['step']}"]
        if math.isfinite(event["loss"]):
            parts.append(f"loss {event['loss']:.3f}")
        if event["accuracy"] is not None:
            parts.append(f"accuracy {100 * event['accuracy']:.1f} %")
        return ", ".join([*parts, f"{clock(event['left'])} left"])

    def end(self, event: Event) -> str:
        """How a run ended, in words."""
        if event["status"] == "skipped":
            return "done before"
        if event["status"] in ("diverged", "failed", "busy"):
            return f"{event['status']}: {event['error']}".splitlines()[0]
        from clbench.results import open_result

        accuracy = open_result(Path(event["folder"])).summaries(["class/final_accuracy"])["class/final_accuracy"]
        shown = f"{100 * accuracy.number:.1f} %" if accuracy.number is not None else f"undefined ({accuracy.note})"
        return f"final accuracy {shown}, {clock(event['seconds'])}"

    def table(self) -> None:
        """The leaderboard of what was run."""
        from clbench import results

        folders = [Path(event["folder"]) for event in self.ended.values()]
        found = [results.open_result(folder) for folder in folders if (folder / "meta.json").exists()]
        if found:
            print(f"\n{results.render(results.leaderboard(found))}", end="")

    def places(self, results: Path, uri: str, behind: str | None) -> None:
        """Where everything lies; `uri` is MLflow's, empty where it is off, and `behind` says why it is incomplete."""
        from clbench.mirror import shown
        from clbench.tables import counted

        spent = clock(time.monotonic() - self.began)
        print(f"{counted(len(self.ended), 'run')} in {spent}. Results: {results}")
        if uri:
            print(behind or f"MLflow: mlflow ui --backend-store-uri {shown(uri)}")


class Live(Display):
    """A table on the terminal: a line for each run that is going on, one count for the rest."""

    def __init__(self, work: Sequence[Task]) -> None:
        super().__init__(work)
        from rich.console import Console
        from rich.live import Live as Screen

        self.going: dict[int, Event] = {}
        self.console = Console()
        self.screen = Screen(console=self.console, get_renderable=self.grid, refresh_per_second=4, transient=True)

    def __enter__(self) -> Live:
        self.screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.screen.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def tell(self, event: Event) -> None:
        if event["event"] == "end":
            self.going.pop(event["run"], None)
        elif event["event"] in ("start", "progress"):
            self.going[event["run"]] = event
        if event["event"] != "progress":
            super().tell(event)

    def grid(self) -> Any:
        from rich import box
        from rich.table import Table

        title = f"{len(self.ended)} of {len(self.work)} runs done, {clock(time.monotonic() - self.began)}"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run", overflow="fold")
        for head in ("experience", "step", "loss", "accuracy", "left"):
            table.add_column(head, justify="right", no_wrap=True)
        for number, event in sorted(self.going.items()):
            if event["event"] == "start":
                table.add_row(self.names[number], "–", "–", "–", "–", "–")
                continue
            loss = f"{event['loss']:.3f}" if math.isfinite(event["loss"]) else "–"
            accuracy = "–" if event["accuracy"] is None else f"{100 * event['accuracy']:.1f} %"
            of = f"{event['experience']}/{event['experiences']}"
            table.add_row(self.names[number], of, str(event["step"]), loss, accuracy, clock(event["left"]))
        return table


class Lines(Display):
    """One JSON object a line; when a run ends, its status, folder and summary."""

    def tell(self, event: Event) -> None:
        if event["event"] != "end":
            return self._print(self._plain(event))
        self.ended[event["run"]] = event
        from clbench.results import open_result

        summary: dict[str, float | None] = {}
        if (Path(event["folder"]) / "meta.json").exists():
            summary = {id: value.number for id, value in open_result(Path(event["folder"])).summaries().items()}
        end = {"status": event["status"], "folder": event["folder"], "summary": summary}
        self._print(end | ({"error": event["error"]} if event["error"] else {}))

    def _plain(self, event: Event) -> Event:
        """Numbers that JSON has no word for are null."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.items()}

    def _print(self, thing: dict[str, Any]) -> None:
        print(json.dumps(thing), flush=True)

    def table(self) -> None:
        pass

    def places(self, results: Path, uri: str, behind: str | None) -> None:
        if behind:
            print(behind, file=sys.stderr)


def manifest(stream: Stream, of: Mapping[str, Any], as_json: bool) -> None:
    """Print the digests of an opened stream: a line for each data set, experience and exam and one for the whole, or
    all as JSON."""
    from clbench.stream import manifest

    found = manifest(stream)
    if as_json:
        print(json.dumps({**of, "version": stream.version, **found}))
        return
    for name, digest in found["data"].items():
        print(f"{digest}  data {name}")
    for experience in found["experiences"]:
        print(f"{experience['sha256']}  experience {experience['index']}, {experience['samples']} samples")
    for exam in found["exams"]:
        print(f"{exam['sha256']}  exam {exam['name']}, {exam['samples']} samples")
    print(f"{found['sha256']}  {', '.join(f'{name} {value}' for name, value in of.items())}, whole")


# Entries.


def listing(kind: str | None) -> None:
    """Print the names of a kind (null: of all) with a line about each. Imports nothing heavy."""
    if kind not in (None, "data", *LISTED):
        raise unknown("kind of entry", str(kind), ["data", *LISTED])
    for heading in [kind] if kind else [*LISTED, "data"]:
        if kind is None:
            print(heading)
        if heading == "data":
            from clbench.datasets import available

            lines = available()
        else:
            lines = {name: about(LISTED[heading], name) for name in sorted(catalogue.names(LISTED[heading]))}
        width = max(map(len, lines), default=0)
        for name, line in lines.items():
            print(f"  {name:<{width}}  {line}".rstrip())
        if kind is None:
            print()


def about(kind: str, name: str) -> str:
    """One line about an entry, read from its source where it is a reference: nothing is imported."""
    reference = catalogue.names(kind)[name]
    if not isinstance(reference, str):
        return getattr(reference, "title", None) or _first(getattr(reference, "__doc__", None))
    module, _, attribute = reference.partition(":")
    try:
        found = find_spec(module)
    except ImportError:
        return f"{reference} can't be found"
    if found is None or found.origin is None:
        return f"{reference} can't be found"
    body = ast.parse(Path(found.origin).read_text(encoding="utf-8")).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        match statement, after:
            case ast.ClassDef(name=n), _ if n == attribute:
                return _first(ast.get_docstring(statement))
            case ast.Assign(targets=[ast.Name(id=n)]), ast.Expr(ast.Constant(str() as text)) if n == attribute:
                return _first(text)
    return ""


def _first(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def entry(name: str) -> None:
    """Print all about an entry: its paper, options with documentation and defaults, recipes, presets and their
    sources; or about a recipe, what it says of each stream that has it."""
    from rich.console import Console

    console = Console()
    kinds = [kind for kind in catalogue.KINDS if name in catalogue.names(kind)]
    recipes = {} if kinds else _recipes(name)
    if not kinds and not recipes:
        raise unknown("entry", name, {n for kind in catalogue.KINDS for n in catalogue.names(kind)})
    for kind in kinds:
        _entry(console, kind, name)
    for stream, recipe in recipes.items():
        _recipe(console, name, recipe, f" for {stream}")


def _recipes(name: str) -> dict[str, Recipe]:
    """The recipes of this name, by stream."""
    homes = {stream: catalogue.home("stream", stream) for stream in sorted(catalogue.names("stream"))}
    named = {stream: getattr(home, "RECIPES", {}).get(stream, {}) for stream, home in homes.items()}
    return {stream: recipes[name] for stream, recipes in named.items() if name in recipes}


def _recipe(console: Console, name: str, recipe: Recipe, of: str = "") -> None:
    from rich.text import Text

    from clbench.words import to_text

    values = " ".join(f"{path}={to_text(value)}" for path, value in recipe.values.items())
    console.print(Text.assemble("recipe ", (name, "bold"), f"{of}: {values}\n  source: {recipe.source}"))


def _entry(console: Console, kind: str, name: str) -> None:
    from dataclasses import MISSING, fields, is_dataclass

    from rich import box
    from rich.table import Table
    from rich.text import Text

    from clbench.config import name_of
    from clbench.fields import default_of, documentation
    from clbench.metric import Summary
    from clbench.words import to_text

    thing = catalogue.resolve(kind, name)
    console.print(Text.assemble((name, "bold"), f"  ({kind})"))
    if isinstance(thing, Summary):
        for field in ("id", "version", "formula", "citation", "unit", "better"):
            console.print(Text(f"{field:<10}{getattr(thing, field)}"))
        return
    owner = thing if isinstance(thing, type) else type(thing)
    console.print(Text("\n" + _paragraphs(owner.__doc__)))
    module = sys.modules[owner.__module__].__doc__
    console.print(Text("\n" + _paragraphs(module), "dim"))
    if not is_dataclass(owner):
        raise Mistake(f"{name} is no dataclass, so it has no options to show.")
    docs = documentation(owner)
    if fields(owner):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        for head in ("option", "default", "meaning"):
            table.add_column(head, overflow="fold")
        for option in fields(owner):
            default = default_of(thing, option)
            if default is MISSING:
                shown = "must be given"
            else:
                shown = name_of("strategy", default) if is_dataclass(default) else to_text(default)
            table.add_row(Text(option.name), Text(shown), Text(docs.get(option.name, "")))
        console.print(table)
    home = catalogue.home(kind, name)
    for recipe, content in getattr(home, "RECIPES", {}).get(name, {}).items():
        _recipe(console, recipe, content)
    _presets(console, [preset for preset in getattr(home, "PRESETS", ()) if preset.strategy == name])


def _presets(console: Console, presets: Sequence[Preset]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from clbench.tables import mark
    from clbench.words import to_text

    def text(values: Mapping[str, Any]) -> str:
        return " ".join(f"{path.removeprefix('strategy.')}={to_text(value)}" for path, value in values.items())

    if not presets:
        return
    sources: dict[str, int] = {}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("stream", "recipe", "where", "preset"):
        table.add_column(head, overflow="fold")
    for preset in presets:
        where = text(dict(preset.when) | ({"model": preset.model} if preset.model else {}))
        values = text(preset.values) + mark(sources, preset.source)
        table.add_row(preset.stream, preset.recipe, Text(where), Text(values))
    console.print(table)
    for source in sources:
        console.print(Text(f"{mark(sources, source)} {source}"))


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").strip().split("\n\n"))
