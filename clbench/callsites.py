"""The calls in Python source whose callee is known by name, found by reading alone: nothing is imported or executed.

A call is known where the head of its callee is imported, or was assigned from a known call in the same function:
`np.zeros(3)` is `numpy.zeros`; after `p = re.compile(x)`, `p.match(y)` is `re.compile().match`. Whatever else may be
called (`self.x()`, a parameter, what an import renames) is passed over. This is resolution by alias table and one step
of local types; it knows neither inheritance nor re-exports, so one function may go by two names.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

LINES = range(3, 251)
"""how many lines a function that is taken has, from its first to its last"""
LEXEME = re.compile(
    r"""(?P<name>(?![rbuf]{1,2}['"])[^\W\d]\w*+)
    |(?P<operator>\*\*=?|//=?|>>=?|<<=?|[-+*/%@&|^=!<>]=|->|:=|[^\s\w'"\#])
    |(?P<number>\d[\w.]*+)
    |(?P<string>[rbuf]{0,2}(?:'{3}(?:[^\\]|\\.)*?'{3}|"{3}(?:[^\\]|\\.)*?"{3}|'(?:[^\\\n']|\\.)*+'|"(?:[^\\\n"]|\\.)*+"))
    |(?P<comment>\#[^\n]*+)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
"""a lexical token of Python, near enough: nested quotes within f-strings end them"""


@dataclass(slots=True)
class Site:
    """A call. Places are in bytes of the function's source."""

    api: str
    """what is called: `numpy.zeros`, `re.compile().match`"""
    start: int
    """of the callee's last name"""
    end: int
    call: int
    """where the whole call begins"""
    close: int
    """where it ends, its bracket included"""


@dataclass(slots=True)
class Function:
    """A function or method, with what is nested in it."""

    name: str
    source: bytes
    """without decorators, docstring and comments, in UTF-8"""
    exact: bytes
    """names the function up to layout, comments and docstring"""
    shape: bytes
    """likewise up to names and constants too"""
    sites: list[Site] = field(default_factory=list)


def functions(source: bytes, module: str, package: bool = False) -> Iterator[Function]:
    """The functions of a file with their known calls, in order.

    Args:
        source: the whole file
        module: its dotted name, to which relative imports are relative
        package: whether it is an `__init__.py`

    Raises:
        SyntaxError: this interpreter can't parse it.
        ValueError: likewise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    above = module.split(".") if package else module.split(".")[:-1]
    imports: dict[str, str | None] = {}
    for node in _outside(tree):
        imports |= imported(node, above)
    for node in _definitions(tree):
        assert node.end_lineno is not None
        if node.end_lineno - node.lineno + 1 in LINES:
            yield _function(node, source, lines, imports, above)


def imported(node: ast.AST, above: list[str]) -> dict[str, str | None]:
    """The names that an import binds, and the dotted name of each; nothing for other nodes."""
    if isinstance(node, ast.Import):
        return {
            a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0] for a in node.names
        }
    if isinstance(node, ast.ImportFrom):
        base = above[: len(above) - node.level + 1] if node.level else []
        stem = ".".join([*base, *([node.module] if node.module else [])])
        return {a.asname or a.name: f"{stem}.{a.name}" for a in node.names if a.name != "*"}
    return {}


def _outside(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements of a file that stand in no function or class."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Expr | ast.Assign):
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)
            ]


def _definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that stand in no other, in order."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.stmt | ast.excepthandler):
            yield from _definitions(child)


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef,
    source: bytes,
    lines: list[int],
    imports: dict[str, str | None],
    above: list[str],
) -> Function:
    first, last = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
    doc = node.body[0]
    left: list[tuple[int, int]] = []
    if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]
        left.append((lines[doc.lineno - 1] + doc.col_offset, lines[doc.end_lineno - 1] + doc.end_col_offset))  # type: ignore[operator]
    sites = _Sites(imports, above, lines)
    for part in (node.args, *node.body):
        sites.visit(part)
    kept = _Kept(source, first, last, left)
    exact, shape = _digests(node)
    found = [Site(s.api, *map(kept.place, (s.start, s.end, s.call, s.close))) for s in sites.found]
    return Function(node.name, kept.text, exact, shape, found)


class _Kept:
    """A stretch of source without comments, and without what else is left out; and where its bytes are now."""

    def __init__(self, source: bytes, first: int, last: int, left: list[tuple[int, int]]) -> None:
        text = source[first:last]
        gaps = [(a - first, b - first) for a, b in left]
        if b"#" in text:
            gaps += _comments(text)
        self.first, self.gaps = first, sorted(gaps)
        parts, at = [], 0
        for start, stop in self.gaps:
            parts.append(text[at:start])
            at = max(at, stop)
        self.text = b"".join([*parts, text[at:]])

    def place(self, at: int) -> int:
        """Of a byte of the file, the place in what is kept."""
        inside = at - self.first
        return inside - sum(stop - start for start, stop in self.gaps if stop <= inside)


def _comments(text: bytes) -> list[tuple[int, int]]:
    """Where comments stand, with the space before them."""
    found = []
    for match in LEXEME.finditer(text.decode("latin-1")):
        if match.lastgroup == "comment":
            start = match.start()
            while start and text[start - 1] in b" \t":
                start -= 1
            found.append((start, match.end()))
    return found


class _Sites(ast.NodeVisitor):
    """Goes through a function in the order of its text, and notes what its names stand for."""

    def __init__(self, imports: dict[str, str | None], above: list[str], lines: list[int]) -> None:
        self.names, self.above, self.lines = dict(imports), above, lines
        """of each name what it stands for; None: something unknown"""
        self.found: list[Site] = []

    def known(self, node: ast.expr) -> str | None:
        """The dotted name of what an expression is, where that is known."""
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            path.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            head = self.names.get(node.id)
        elif isinstance(node, ast.Call):
            called = self.known(node.func)
            head = f"{called}()" if called and "()" not in called else None
        else:
            head = None
        return ".".join([head, *reversed(path)]) if head else None

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        func = node.func
        if isinstance(func, ast.Name | ast.Attribute) and (api := self.known(func)) and "." in api:
            name = func.attr if isinstance(func, ast.Attribute) else func.id
            if name != api.rpartition(".")[2]:
                return
            end = self.lines[func.end_lineno - 1] + func.end_col_offset  # type: ignore[operator]
            begin = self.lines[node.lineno - 1] + node.col_offset
            close = self.lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
            self.found.append(Site(api, end - len(name.encode()), end, begin, close))

    def bind(self, target: ast.expr | None, value: ast.expr | None = None) -> None:
        """What a target is assigned."""
        match target:
            case ast.Name():
                self.names[target.id] = self.known(value) if isinstance(value, ast.Call) else None
            case ast.Tuple() | ast.List():
                for part in target.elts:
                    self.bind(part)
            case ast.Starred():
                self.bind(target.value)
            case ast.expr():
                self.visit(target)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)
        self.bind(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target, node.value)

    def visit_withitem(self, node: ast.withitem) -> None:
        self.visit(node.context_expr)
        self.bind(node.optional_vars, node.context_expr)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.bind(node.target)
        for part in (*node.body, *node.orelse):
            self.visit(part)

    visit_AsyncFor = visit_For

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        self.bind(node.target)
        for part in node.ifs:
            self.visit(part)

    def _visit_elements(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        before = dict(self.names)
        for generator in node.generators:
            self.visit(generator)
        self.visit(node.elt)
        self.names = before

    visit_ListComp = visit_SetComp = visit_GeneratorExp = _visit_elements

    def visit_DictComp(self, node: ast.DictComp) -> None:
        before = dict(self.names)
        for part in (*node.generators, node.key, node.value):
            self.visit(part)
        self.names = before

    def visit_arg(self, node: ast.arg) -> None:
        self.names[node.arg] = None

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.names[node.name] = None
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.names |= imported(node, self.above)

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        before = dict(self.names)
        self.generic_visit(node)
        self.names = before
        if not isinstance(node, ast.Lambda):
            self.names[node.name] = None

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.generic_visit(node)
        self.names[node.name] = None


def _digests(node: ast.AST) -> tuple[bytes, bytes]:
    """A digest of a tree, and one of the kinds of its nodes alone."""
    whole: list[str] = []
    kinds: list[str] = []

    def walk(node: ast.AST) -> None:
        kind = node.__class__.__name__
        kinds.append(kind)
        whole.append(kind)
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                walk(value)
            elif isinstance(value, list):
                kinds.append("[")
                whole.append("[")
                for one in value:
                    if isinstance(one, ast.AST):
                        walk(one)
                    else:
                        whole.append(repr(one))
                kinds.append("]")
                whole.append("]")
            elif name not in ("ctx", "type_comment"):
                whole.append(repr(value))

    walk(node)
    return tuple(
        blake2b("\0".join(part).encode("utf-8", "replace"), digest_size=16).digest() for part in (whole, kinds)
    )  # type: ignore[return-value]
