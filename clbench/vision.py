"""torchvision, also where its compiled operators do not fit the torch that is installed.

A torchvision that was built for another torch (the CUDA build beside a CPU-only torch, say) fails at its import, when
it registers kernels for operators that its own library should have declared. clbench uses its data sets, and timm its
transforms; neither needs those operators, so they are declared, without kernels, and the import goes through.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

_OPERATORS = {"nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"}
_OPERATORS["qnms"] = _OPERATORS["nms"]


@cache
def _declare() -> object:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name, signature in _OPERATORS.items():
        library.define(f"{name}{signature}")
    return library


def torchvision() -> ModuleType:
    """The package, imported; `import timm` goes through after it."""
    import importlib
    import sys

    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare()
    return importlib.import_module("torchvision")
