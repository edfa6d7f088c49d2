"""Mutants of a module: its source with one small fault, made in the syntax tree.

Annotations, decorators, docstrings, messages (f-strings, `raise`) and `assert` are not mutated,
because they do not change results.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_TWINS = {
    **{"min": "max", "minimum": "maximum", "argmin": "argmax", "any": "all", "amin": "amax"},
    **{"max": "min", "maximum": "minimum", "argmax": "argmin", "all": "any", "amax": "amin"},
    **{"sigmoid": "tanh", "log": "exp", "exp": "log", "mean": "sum", "sum": "mean"},
    **{"clamp_min": "clamp_max", "argsort": "argmax", "sin": "cos"},
}
_DROPPED = frozenset(
    {
        *("relu", "dropout", "normalize", "softmax", "sigmoid", "square", "sqrt", "abs", "log"),
        *("exp", "clip", "clamp", "clamp_min", "maximum", "minimum", "max", "min", "sign", "rint"),
        *("sorted", "round", "detach", "train", "cumsum", "to_float32", "normalise_weights"),
        *("permutation", "sort", "squeeze", "mean", "sum"),
    }
)
"""Calls that are replaced by their argument: `relu(x)` and `x.square()` by `x`."""
_SYMMETRIC = frozenset(
    {"min", "max", "minimum", "maximum", "hypot", "isinstance", "mse_loss", "cosine_similarity"}
)
"""Calls whose first two arguments are not swapped: their order is irrelevant, or prescribed."""
_SKIPPED_FIELDS = frozenset({"annotation", "returns", "decorator_list", "bases"})
_SKIPPED_NODES = (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """A module with one fault."""

    function: str  # the mutated function, `Class.method`; empty: at module level
    operator: str
    before: str  # the statement's first line, formatted by `ast.unparse`
    after: str
    line: int
    source: str  # the whole module with the fault

    @property
    def key(self) -> str:
        """Identifies the mutant independently of its line number."""
        return f"{self.function}: {self.before} -> {self.after}"


def mutants_of(source: str) -> list[Mutant]:
    """All distinct mutants of a module."""
    tree = ast.parse(source)
    known = {ast.unparse(tree)}
    found = []
    for site in _sites(tree, "", None):
        for operator, replacement in _variants(site.node):
            before = site.first_line()
            site.put(replacement)
            changed = ast.unparse(ast.fix_missing_locations(tree))
            if changed not in known:
                known.add(changed)
                after = site.first_line()
                line = getattr(site.node, "lineno", 0)
                found.append(Mutant(site.function, operator, before, after, line, changed))
            site.put(site.node)
    return found


@dataclass
class _Site:
    """A node of the syntax tree, its position in its parent, and its statement."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    function: str
    statement: "_Site | None"

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node

    def current(self) -> ast.AST:
        value = getattr(self.parent, self.field)
        found: ast.AST = value if self.index is None else value[self.index]
        return found

    def first_line(self) -> str:
        """The statement's first line, without decorators."""
        whole = (self.statement or self).current()
        lines = ast.unparse(ast.fix_missing_locations(copy.deepcopy(whole))).splitlines()
        return next((line for line in lines if not line.startswith("@")), "")


def _sites(parent: ast.AST, function: str, statement: _Site | None) -> Iterator[_Site]:
    for field, value in ast.iter_fields(parent):
        if field in _SKIPPED_FIELDS or (isinstance(parent, ast.ClassDef) and field == "keywords"):
            continue
        nodes = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, node in nodes:
            if not isinstance(node, ast.AST) or isinstance(node, _SKIPPED_NODES):
                continue
            if isinstance(node, ast.keyword) and node.arg == "strict":  # an assertion
                continue
            inner = function
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                inner = f"{function}.{node.name}".lstrip(".")
            site = _Site(parent, field, index, node, function, statement)
            if isinstance(node, ast.stmt):
                site.statement = None
                yield site
                yield from _sites(node, inner, site)
            else:
                yield site
                yield from _sites(node, inner, statement)


def _variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The replacements of a node: the operator's name and the new node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = _COMPARISONS[type(node.ops[0])]()
        yield "comparison", ast.Compare(node.left, [other], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield "arithmetic", ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield "arithmetic", ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
        yield "statement deleted", ast.Pass()
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", ast.BoolOp(other, node.values)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield "sign or negation dropped", node.operand
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield "condition negated", changed
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "nothing returned", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Break | ast.Continue):
        yield "break/continue", ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    elif _is_effect(node):
        yield "statement deleted", ast.Pass()


def _is_effect(node: ast.AST) -> bool:
    """Whether it is a call as a statement, or an assignment to an attribute or an element."""
    if isinstance(node, ast.Assign):
        return not isinstance(node.targets[0], ast.Name | ast.Tuple)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _constants(value: object) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int | float):
        yield "constant", ast.Constant(value + 1)
        yield "constant", ast.Constant(value - 1)


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    is_method = isinstance(node.func, ast.Attribute)
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in _TWINS:
        func = copy.deepcopy(node.func)
        setattr(func, "attr" if is_method else "id", _TWINS[name])
        yield "twin called", ast.Call(func, node.args, node.keywords)
    if name in _DROPPED:
        first = node.args[0] if node.args else ast.Constant(None)
        if not isinstance(first, ast.Constant | ast.Starred | ast.GeneratorExp):
            yield "call dropped", first
        elif isinstance(node.func, ast.Attribute):
            yield "call dropped", node.func.value
    plain = [arg for arg in node.args[:2] if not isinstance(arg, ast.Starred)]
    if len(plain) == 2 and name not in _SYMMETRIC:
        args = [*plain[::-1], *node.args[2:]]
        yield "arguments swapped", ast.Call(node.func, args, node.keywords)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, "strict"):
            rest = node.keywords[:index] + node.keywords[index + 1 :]
            yield "keyword dropped", ast.Call(node.func, node.args, rest)
