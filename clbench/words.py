"""The words of a command: Hydra's grammar, the values that it gives, and values as text in it again."""

from __future__ import annotations

import itertools
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from clbench.errors import Mistake, unknown
from clbench.fields import default_of, documentation
from clbench.types import Count, NonNegative

T = typing.TypeVar("T")
Values = Mapping[str, Any]
"""path to value"""
_COMMENT = re.compile(r"^((?:'(?:\\.|[^'\\])*'|[^'])*?)(?:(?:^|\s)\s*#(?:\s.*)?)?$")
"""a line, and its comment; what is quoted is none"""


@dataclass
class Options:
    """What a command sets beside the run itself. None of it changes a run's numbers."""

    results: str = "results"
    """folder of all results"""
    workers: Count = 1
    """local processes that share the runs"""
    mlflow: str = "local"
    """where MLflow's mirror goes: local (an SQLite file among the results), off, or a tracking URI"""
    checkpoint: NonNegative = 15.0
    """seconds between checkpoints, at the least; 0: at every epoch"""


def parse(words: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The points that a command's words ask for (path to value, a dictionary a run), and its options.

    Raises:
        Mistake: a word is not in the grammar, or asks for what is not supported.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString, RangeSweep
    from hydra.errors import HydraException

    def plain(value: Any) -> Any:
        match value:
            case QuotedString():
                return value.text
            case list():
                return [plain(v) for v in value]
            case dict():
                return {plain(k): plain(v) for k, v in value.items()}
        return value

    axes: dict[str, list[Any]] = {}
    parser = OverridesParser.create()
    for word in words:
        if word.startswith("-"):
            raise Mistake(f"There is no flag '{word}' here; settings are written path=value, as in learner.lr=0.03.")
        if "\n" in word or "\r" in word:
            raise Mistake(f"{word!r} holds a line break; no setting can.")
        try:
            parsed = parser.parse_override(_plain_text(word))
        except HydraException as error:
            reason, hint = str(error).splitlines()[0], "Quote values that hold spaces or commas."
            if "=" not in word:
                reason, hint = "there is no '='", "Settings are written path=value, as in stream=digits."
            elif word.endswith(","):
                reason, hint = "nothing follows the last comma", f"One value is written {word.rstrip(',')}."
            raise Mistake(f"'{word}' can't be read: {reason}. {hint}") from None
        if not parsed.type.name == "CHANGE" or parsed.package:
            raise Mistake(
                f"'{word}': additions (+), deletions (~) and packages (@) are not supported; write path=value."
            )
        value, path = parsed._value, parsed.key_or_group.replace("/", ".")
        if value == "":
            raise Mistake(f"'{word}' can't be read: nothing follows the '='; null stands for no value.")
        if path in axes:
            raise Mistake(f"'{path}' is set twice; to sweep over values write {path}=A,B.")
        match value:
            case ChoiceSweep() if not value.shuffle and value.tags == set():
                axes[path] = [plain(v) for v in value.list]
            case RangeSweep() if not value.shuffle and value.tags == set():
                axes[path] = list(value.range())
            case _ if parsed.is_sweep_override():
                raise Mistake(
                    f"'{word}': only lists (A,B) and range(N) are swept over; intervals, globs and shuffles are not."
                )
            case _:
                axes[path] = [plain(value)]
        if not axes[path]:
            raise Mistake(f"'{word}' sweeps over nothing.")
    names = {f.name for f in fields(Options)}
    options = {path: axes.pop(path) for path in list(axes) if path in names}
    for path, values in options.items():
        if len(values) > 1:
            raise Mistake(f"'{path}' takes one value; it can't be swept over.")
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    return points, {path: values[0] for path, values in options.items()}


def _plain_text(word: str) -> str:
    """The word, its value quoted where it is plain text with characters that the grammar does not know: ~/photos."""
    path, separator, value = word.partition("=")
    structured = re.search(r"""[][(){},'"]""", value)
    foreign = re.search(r"[^\w /\\+.$%*@?|:-]", value, re.ASCII)
    return f"{path}{separator}{to_text(value)}" if foreign and not structured else word


def typed(kind: type[T], given: Values) -> T:
    """An object of a dataclass without choices, its fields as they are given.

    Raises:
        Mistake: one is not there, missing, or of another type.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in given.keys() - hints.keys():
        raise unknown("setting", name, hints)
    for option in fields(kind):  # type: ignore[arg-type]
        if option.name not in given and default_of(kind, option) is MISSING:
            raise Mistake(f"{option.name} must be given: {documentation(kind)[option.name]}.")
    return kind(**{name: typed_value(name, value, hints[name]) for name, value in given.items()})


def typed_value(path: str, value: Any, hint: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    try:
        typed = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reasons = list(dict.fromkeys(e["msg"][0].lower() + e["msg"][1:] for e in error.errors()))
        if isinstance(value, float) and not math.isfinite(value):
            reasons = ["it must be a finite number"]
        listed = any(e["type"] in ("list_type", "tuple_type") for e in error.errors())
        hints = [f"a list is written {path}=[A,B]"] * listed + ["nothing is written null"] * (value in ("None", "none"))
        hint = f" ({'; '.join(hints)})" if hints else ""
        raise Mistake(f"{path}={to_text(value)}: {'; or '.join(reasons)}{hint}.") from None
    if isinstance(value, bool) and not isinstance(typed, bool):
        raise Mistake(f"{path}={to_text(value)}: {to_text(value)} is no number.")
    return typed


NULL = "null"
"""how no value is written"""


def to_text(value: Any) -> str:
    """A value in the grammar of the command line."""
    match value:
        case None:
            return NULL
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{','.join(map(to_text, value))}]"
        case dict():
            return "{" + ",".join(f"{to_text(k)}:{to_text(v)}" for k, v in value.items()) + "}"
        case _ if is_dataclass(value):
            return to_text(
                {f.name: v for f in fields(value) if (v := getattr(value, f.name)) != default_of(type(value), f)}
            )
    text = str(value)
    special = text.lower() in ("null", "true", "false", "nan", "inf")
    if re.fullmatch(r"([A-Za-z_]|\.{0,2}/)[\w./@+-]*(:[\w./@+-]+)?", text, re.ASCII) and not special:
        return text
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def read(path: Path, word: str = "config") -> dict[str, Any]:
    """The values of a `config.yaml`, or of another file of that form, path to value; `word` is what names it.

    Raises:
        Mistake: there is no such file, a line is not `path: value`, or it is more than one run.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Mistake(f"{word}={path} can't be read: {reason}.") from None
    words = []
    for number, line in enumerate(lines, 1):
        content = _COMMENT.sub(r"\1", line).strip()
        if not content:
            continue
        key, separator, value = content.partition(": ")
        if not separator:
            raise Mistake(f"{path}:{number}: '{content}' is not 'path: value'.")
        words.append(f"{key}={value}")
    if not words:
        raise Mistake(f"{word}={path} is empty.")
    try:
        points, options = parse(words)
    except Mistake as mistake:
        raise Mistake(f"{path}: {mistake}") from None
    if apart := [*options, *({"config", "tuned"} & points[0].keys())]:
        raise Mistake(f"{path}: {apart[0]} is no part of a run; it stands in the command alone.")
    if len(points) > 1:
        raise Mistake(f"{path} is more than one run; sweeps stand in the command: seed=range(5).")
    return points[0]
