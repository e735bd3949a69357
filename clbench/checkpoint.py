"""Saving what a run needs to go on, so that a kill at any moment loses nothing that was saved.

A checkpoint is one safetensors file (tensors by path; in its header the tree, and how long the run's files were) and a
manifest that names its sha256. Each is written beside its place, synced and renamed; the manifest comes last, so what
has a manifest is whole. The last two are kept. Nothing that is loaded can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all, and on the disk when this returns. One writer at a time."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(folder: Path, tree: dict[str, Any], tensors: dict[str, Tensor], files: dict[str, Any], keep: int = 2) -> None:
    """Save a checkpoint, with `files`, which is JSON. The last `keep` stay."""
    from safetensors.torch import save as pack

    folder.mkdir(parents=True, exist_ok=True)
    numbers = sorted(int(p.stem) for p in folder.glob("*.json"))
    number = numbers[-1] + 1 if numbers else 0
    content = pack(tensors, metadata={"tree": json.dumps(tree), "files": json.dumps(files)})
    write_atomically(folder / f"{number:06d}.safetensors", content)
    manifest = {"sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(folder / f"{number:06d}.json", json.dumps(manifest).encode())
    for path in sorted(folder.glob("[0-9]*")):
        if int(path.stem) <= number - keep:
            path.unlink()


def load(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole, as (tree, tensors, files); None where there is none.

    One that is not is told through `say` and passed over.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load as unpack

    names = sorted({path.stem for path in folder.glob("[0-9]*")})
    while names:
        data = folder / f"{names.pop()}.safetensors"
        manifest = data.with_suffix(".json")
        try:
            if not manifest.exists():
                raise ValueError("it has no manifest")
            content = data.read_bytes()
            if hashlib.sha256(content).hexdigest() != json.loads(manifest.read_bytes())["sha256"]:
                raise ValueError("its content is not what was saved")
            with safe_open(data, "pt") as file:
                header = file.metadata()
            return json.loads(header["tree"]), unpack(content), json.loads(header["files"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            then = "going on from the one before it" if names else "there is none before it, so the run starts over"
            say(f"The checkpoint {data} is not whole ({error}); {then}.")
    return None
