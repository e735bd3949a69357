"""Notebooks as they are kept: valid, and without what running them leaves."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PARTS = {
    "markdown": {"cell_type", "id", "metadata", "source"},
    "code": {"cell_type", "id", "metadata", "source", "execution_count", "outputs"},
}


def flaws(text: str) -> list[str]:
    """What is wrong with a notebook."""
    book = json.loads(text)
    found = []
    if (book.get("nbformat"), book.get("nbformat_minor")) < (4, 5):
        found.append("it is older than nbformat 4.5")
    if book.get("metadata", {}).get("kernelspec", {}).get("name") != "python3":
        found.append("its kernel is not python3")
    cells = book.get("cells", [])
    if len({cell.get("id") for cell in cells}) < len(cells):
        found.append("two cells share an id")
    for number, cell in enumerate(cells):
        if set(cell) != PARTS.get(cell.get("cell_type")):
            found.append(f"cell {number} has other parts than nbformat 4 names")
        elif not all(isinstance(line, str) for line in cell["source"]):
            found.append(f"cell {number} holds what is no text")
        elif cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"] is not None):
            found.append(f"cell {number} was run")
    return found


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_was_not_run(path):
    assert not flaws(path.read_text("utf-8"))


def test_flaws_are_found():
    prose = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["words"]}
    code = {**prose, "cell_type": "code", "id": "b", "execution_count": None, "outputs": []}
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3"}}, "cells": [prose, code]}
    assert not flaws(json.dumps(book))
    for cell, flaw in (
        ({**code, "execution_count": 3}, "cell 1 was run"),
        ({**code, "outputs": [{"output_type": "stream"}]}, "cell 1 was run"),
        ({**code, "id": "a"}, "two cells share an id"),
        ({**code, "source": [1]}, "cell 1 holds what is no text"),
        ({**prose, "cell_type": "code"}, "cell 1 has other parts than nbformat 4 names"),
    ):
        assert flaw in flaws(json.dumps({**book, "cells": [prose, cell]}))
    assert "it is older than nbformat 4.5" in flaws(json.dumps({**book, "nbformat": 3}))
    assert "its kernel is not python3" in flaws(json.dumps({**book, "metadata": {}}))
