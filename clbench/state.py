"""What state is, and how it is packed: plain JSON and named tensors, nothing that can run.

The state of a strategy is its attributes that are no fields, and the state of every field that is a dataclass. It is
packed over a closed set of kinds: plain values, tensors, arrays, random generators, containers, dataclasses, `Data` (as
the number of its lesson), and whatever has `state_dict` and `load_state_dict` (put back into what `start` made).
Anything else is refused when saving, with its path; so is what inherits from a container, which would come back as
another type.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clbench.data import Data


class Unpackable(TypeError):
    """State of a kind that can't be saved; the message names its path."""


def _attributes(thing: Any) -> dict[str, Any]:
    """The state of a strategy: what is no field, and fields that hold dataclasses."""
    names = {f.name for f in fields(thing)}
    own = {name: value for name, value in vars(thing).items() if name not in names}
    held = {name: getattr(thing, name) for name in names if is_dataclass(getattr(thing, name))}
    return {**own, **{name: _Held(value) for name, value in held.items()}}


class _Held:
    """A dataclass that stands in a field: only its state is packed, its fields are configuration."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing


def pack(strategy: Any, name: str = "strategy") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of a strategy as (tree for JSON, tensors by path). Tensors are detached clones on the CPU.

    Raises:
        Unpackable: an attribute is of a kind that can't be saved.
    """
    tensors: dict[str, Tensor] = {}
    tree = {key: _pack(value, f"{name}.{key}", tensors) for key, value in _attributes(strategy).items()}
    return tree, tensors


def pack_value(value: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Any value of the closed set, as `pack` does it."""
    tensors: dict[str, Tensor] = {}
    return _pack(value, name, tensors), tensors


def _keep(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    if tensor.layout is not torch.strided or (tensor.is_complex() and tensor.dtype is not torch.complex64):
        raise Unpackable(f"{path} is a tensor of {tensor.dtype}, {tensor.layout}, which a checkpoint can't hold.")
    while path in tensors:
        path += "'"
    tensors[path] = tensor.detach().to("cpu", copy=True).contiguous()
    return path


def _array(array: Any, path: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError:
        raise Unpackable(f"{path} is an array of {array.dtype}, which a checkpoint can't hold; keep numbers.") from None


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case None | bool() | str():
            return value
        case _Held():
            return {"state": {k: _pack(v, f"{path}.{k}", tensors) for k, v in _attributes(value.thing).items()}}
        case Tensor():
            kind = "parameter" if isinstance(value, nn.Parameter) else "tensor"
            node = {kind: _keep(value, path, tensors), "grad": value.requires_grad}
            return {**node, "device": True} if value.device.type != "cpu" else node
        case np.generic():
            return {"scalar": _keep(_array(value, path), path, tensors)}
        case int() | float():
            return value
        case np.ndarray():
            return {"array": _keep(_array(value, path), path, tensors)}
        case np.random.Generator() if type(value.bit_generator).__name__ in _BIT_GENERATORS:
            return {"rng": _pack(dict(value.bit_generator.state), path, tensors)}
        case torch.Generator():
            node = {"generator": _keep(value.get_state(), path, tensors)}
            return {**node, "device": True} if value.device.type != "cpu" else node
        case Data():
            if value.lesson is None:
                raise Unpackable(
                    f"{path} is Data of no single lesson; keep the parts, and join them where they are used"
                )
            return {"lesson": value.lesson}
        case list() | tuple() | set() | frozenset() if type(value) in _CONTAINERS:
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return {_CONTAINERS[type(value)]: [_pack(v, f"{path}[{i}]", tensors) for i, v in enumerate(items)]}
        case dict() if type(value) in (dict, OrderedDict):
            pairs = enumerate(value.items())
            return {
                "dict": [[_pack(k, f"{path}{{{i}}}", tensors), _pack(v, f"{path}.{k}", tensors)] for i, (k, v) in pairs]
            }
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return {"stateful": _pack(dict(value.state_dict()), path, tensors)}
    if is_dataclass(value) and not isinstance(value, type):
        inside = {k: _pack(v, f"{path}.{k}", tensors) for k, v in _inside(value).items()}
        return {"object": f"{type(value).__module__}:{type(value).__qualname__}", "vars": inside}
    raise Unpackable(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint can't hold. "
        "Keep tensors, arrays, plain values, containers, dataclasses or modules made in `start`; "
        "or say `resumable = False`."
    )


def _inside(thing: Any) -> dict[str, Any]:
    """The attributes of a dataclass, with slots or without."""
    slots = {f.name: getattr(thing, f.name) for f in fields(thing) if hasattr(thing, f.name)}
    return {**slots, **getattr(thing, "__dict__", {})}


def unpack(
    strategy: Any, tree: dict[str, Any], tensors: dict[str, Tensor], lesson: Callable[[int], Data], device: torch.device
) -> None:
    """Put packed state back into a strategy, in place. `lesson` gives the training data of an experience."""
    _fill(strategy, tree, _Reader(tensors, lesson, device))


def unpack_value(
    tree: Any, tensors: dict[str, Tensor], current: Any, lesson: Callable[[int], Data], device: torch.device
) -> Any:
    """The value that `pack_value` packed; modules and optimisers are filled in place, within `current`."""
    return _Reader(tensors, lesson, device).read(tree, current)


def _fill(thing: Any, tree: dict[str, Any], reader: _Reader) -> None:
    held = {f.name for f in fields(thing)}
    for name in [n for n in vars(thing) if n not in held and n not in tree]:
        delattr(thing, name)
    for name, node in tree.items():
        if name in held:
            _fill(getattr(thing, name), node["state"], reader)
        else:
            setattr(thing, name, reader.read(node, getattr(thing, name, None)))


class _Reader:
    def __init__(self, tensors: dict[str, Tensor], lesson: Callable[[int], Data], device: torch.device) -> None:
        self.tensors, self.lesson, self.device = tensors, lesson, device

    def read(self, node: Any, current: Any) -> Any:
        """The value of a node; `current` is what stands at its place, filled in place where that is possible."""
        if not isinstance(node, dict):
            return node
        kind = next(iter(node))
        content = node[kind]
        match kind:
            case "tensor" | "parameter":
                tensor = self.tensors[content].clone()
                tensor = tensor.to(self.device) if node.get("device") else tensor
                if kind == "parameter":
                    return nn.Parameter(tensor, requires_grad=node["grad"])
                return tensor.requires_grad_(node["grad"])
            case "scalar":
                return self.tensors[content].numpy()[()]
            case "array":
                return self.tensors[content].clone().numpy()
            case "rng":
                state = self.read(content, None)
                bits = _BIT_GENERATORS[state["bit_generator"]]()
                bits.state = state
                return np.random.Generator(bits)
            case "generator":
                return torch.Generator(self.device if node.get("device") else "cpu").set_state(self.tensors[content])
            case "lesson":
                return self.lesson(content)
            case "list" | "tuple" | "set" | "frozenset":
                olds = list(current) if isinstance(current, list | tuple) else []
                items = [self.read(n, olds[i] if i < len(olds) else None) for i, n in enumerate(content)]
                return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
            case "dict":
                old = current if isinstance(current, dict) else {}
                pairs = [(self.read(k, None), v) for k, v in content]
                return {k: self.read(v, old.get(k)) for k, v in pairs}
            case "stateful":
                if current is None:
                    raise LookupError("a checkpoint holds a module that `start` did not make")
                current.load_state_dict(self.read(content, dict(current.state_dict())))
                return current
            case "object":
                return self._object(content, node["vars"], current)
        raise LookupError(f"unknown kind of state: {kind}")

    def _object(self, name: str, inside: dict[str, Any], current: Any) -> Any:
        module, _, qualname = name.partition(":")
        if f"{type(current).__module__}:{type(current).__qualname__}" != name:
            kind: Any = sys.modules[module]
            for part in qualname.split("."):
                kind = getattr(kind, part)
            if not (isinstance(kind, type) and is_dataclass(kind)):
                raise LookupError(f"{name} is no dataclass")
            current = object.__new__(kind)
        for attribute, node in inside.items():
            object.__setattr__(current, attribute, self.read(node, getattr(current, attribute, None)))
        return current


_CONTAINERS: dict[type, str] = {
    list: "list", tuple: "tuple", torch.Size: "tuple", set: "set", frozenset: "frozenset"
}  # fmt: skip
_BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.SFC64, np.random.Philox, np.random.MT19937)
}


def kept_bytes(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of past data, features and weights that a strategy keeps: all tensors and arrays, and samples by lesson."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    match value:
        case Tensor() | np.ndarray() | Data():
            return int(value.nbytes)
        case nn.Module():
            return sum(t.nbytes for t in value.state_dict().values())
        case list() | tuple() | set() | frozenset():
            return sum(kept_bytes(v, seen) for v in value)
        case dict():
            return sum(kept_bytes(v, seen) for v in value.values())
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if is_dataclass(value) and not isinstance(value, type):
        return sum(kept_bytes(v, seen) for v in _inside(value).values())
    return 0
