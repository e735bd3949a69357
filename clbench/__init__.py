"""clbench: a benchmark harness for continual learning.

A stream teaches experiences in order and sets exams; a strategy says how to learn without forgetting; probes look, and
every number that they see is a row. The names below are imported when they are first used.
"""

from importlib import import_module
from importlib.metadata import version as _version

__version__ = _version("clbench")

_HOME = {
    "Experience": "stream",
    "Exam": "stream",
    "Syllabus": "stream",
    "Stream": "stream",
    "Strategy": "strategy",
    "Learner": "learner",
    "Batch": "learner",
    "Data": "data",
    "Memory": "memory",
    "Row": "metric",
    "Probe": "metric",
    "Summary": "metric",
    "Value": "metric",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"clbench.{_HOME[name]}"), name)
    raise AttributeError(f"module 'clbench' has no attribute {name!r}")
