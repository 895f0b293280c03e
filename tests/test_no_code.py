"""Nothing in a file is code: the package never builds, imports or runs what it reads, nor pastes it into SQL.

A walk over the syntax tree of every module. The few places that are let through stand here with their reasons, and
are themselves looked for, so that none outlives its reason.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

import eventstore

PACKAGE = Path(eventstore.__file__).parent
MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
    "importlib",
    "runpy",
    "code",
    "codeop",
    "ctypes",
}
CALLS = {"eval", "exec", "compile", "__import__", "execfile", "breakpoint", "input"}
METHODS = {
    "load_extension",
    "enable_load_extension",
    "create_module",
    "config_pylib",
    "loads_pickle",
    "system",
    "popen",
}
ALLOWED_MODULES = {
    (
        "attached.py",
        "ctypes",
    ): "SQLite writes the answer of a file control into an integer that is given by its address",
    ("cli/loading.py", "importlib"): "imports the module that a person names on the command line to run a graph of it",
}
SQL = {"execute", "executemany", "cursor_execute", "_rows", "prepare", "pragma", "executescript"}
BEGINS_SQL = (
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "DELETE ",
    "PRAGMA ",
    "CREATE ",
    "DROP ",
    "ALTER ",
    "ATTACH ",
    "WITH ",
    "VACUUM",
)
OF_ITS_OWN_TABLES = "the names of tables and columns are those of this package's own schema, read from no file"
ALLOWED_SQL = {
    ("analysis/target.py", "SQL of _marks(trace_ids)"): "as many question marks as there are parameters",
    ("analysis/target.py", "SQL of name"): OF_ITS_OWN_TABLES,
    ("retention.py", "SQL of table"): OF_ITS_OWN_TABLES,
    ("salvag*.py", "SQL by format"): OF_ITS_OWN_TABLES,
    ("salvage_rows.py", "SQL of table, ', '.join(self.names), marks"): OF_ITS_OWN_TABLES,
    ("salvage_rows.py", "SQL of name"): OF_ITS_OWN_TABLES,
}


def findings(source, name="snippet.py", constants=frozenset()):
    """What a module does that none may: `(line, what)`."""
    tree = ast.parse(source)
    known = constants | module_constants(tree)
    for node in ast.walk(tree):
        yield from imported(node, name)
        if isinstance(node, ast.Call):
            yield from called(node)
        if isinstance(node, ast.Attribute) and node.attr in METHODS and not is_own_method(tree, node.attr):
            yield node.lineno, f"uses {node.attr}"
        yield from pasted(node, known)


def module_constants(tree):
    """Names that are bound once, at the top of a module, in capitals, or imported so."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        found |= {
            one.id
            for target in targets
            if isinstance(target, ast.Tuple)
            for one in target.elts
            if isinstance(one, ast.Name)
        }
    return {word for word in found if word.strip("_").isupper()}


def is_own_method(tree, name):
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(tree))


def imported(node, name):
    modules = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    for module in modules:
        root = module.partition(".")[0]
        if root in MODULES and (name, root) not in ALLOWED_MODULES:
            yield node.lineno, f"imports {module}"


def called(node):
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield node.lineno, f"calls {node.func.id}"
    for keyword in node.keywords:
        is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if is_true and keyword.arg in ("pickle_fallback", "shell", "allowed_msgpack_modules", "allowed_json_modules"):
            yield node.lineno, f"{keyword.arg}=True"


def pasted(node, constants):
    """SQL that is put together of anything but constants of modules."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        if is_sql(node.values[0]) and not all(is_constant(part, constants) for part in parts):
            yield (
                node.lineno,
                f"SQL of {', '.join(ast.unparse(part) for part in parts if not is_constant(part, constants))}",
            )
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        if is_sql(leftmost(node)) and not all(is_constant(part, constants) for part in operands(node)):
            yield node.lineno, f"SQL of {ast.unparse(node)[:80]}"
    elif (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "replace")
    ):
        template = node.func.value
        of_constant = isinstance(template, ast.Name) and template.id in constants and template.id.strip("_").isupper()
        if is_sql(template) or (of_constant and node.func.attr == "format" and not is_constant(node, constants)):
            yield node.lineno, f"SQL by {node.func.attr}"


def is_sql(node):
    if isinstance(node, ast.JoinedStr) and node.values:
        return is_sql(node.values[0])
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lstrip().startswith(BEGINS_SQL)


def leftmost(node):
    while isinstance(node, ast.BinOp):
        node = node.left
    return node


def operands(node):
    if isinstance(node, ast.BinOp):
        return [*operands(node.left), *operands(node.right)]
    return [node]


def is_constant(node, constants):
    """A literal, a constant of a module, or one of its attributes (`log.ROWS`)."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Name):
        return node.id in constants
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return all(is_constant(part, constants) for part in parts)
    if isinstance(node, ast.IfExp):
        return is_constant(node.body, constants) and is_constant(node.orelse, constants)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return all(is_constant(part, constants) for part in (node.func.value, *node.args))
    return isinstance(node, ast.Attribute) and node.attr.isupper() and isinstance(node.value, ast.Name)


def modules():
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", modules())
def test_a_module_runs_nothing_that_it_reads(name):
    found = [
        (line, what)
        for line, what in findings((PACKAGE / name).read_text("utf-8"), name)
        if not is_let_through(name, what)
    ]
    assert found == []


def is_let_through(name, what):
    return any(fnmatch(name, pattern) and what == told for pattern, told in ALLOWED_SQL)


def test_what_is_let_through_is_still_there():
    found = {(name, what) for name in modules() for _, what in findings((PACKAGE / name).read_text("utf-8"), name)}
    for pattern, told in ALLOWED_SQL:
        assert any(fnmatch(name, pattern) and what == told for name, what in found), (pattern, told)
    for name, module in ALLOWED_MODULES:
        assert f"import {module}" in (PACKAGE / name).read_text("utf-8")


FLAGGED = [
    "import pickle",
    "from marshal import loads",
    "import importlib.util",
    "import yaml",
    "eval(text)",
    "def f(text):\n    exec(text)",
    "compile(text, '', 'exec')",
    "__import__(name)",
    "connection.load_extension(path)",
    "connection.enable_load_extension(True)",
    "os.system(text)",
    "subprocess.run(text, shell=True)",
    "JsonPlusSerializer(pickle_fallback=True)",
    "JsonPlusSerializer(allowed_msgpack_modules=True)",
    "connection.execute(f'SELECT * FROM {table}')",
    "connection.execute(f'PRAGMA user_version = {number}')",
    "connection.execute('SELECT * FROM log WHERE trace = ' + trace)",
    "connection.execute('SELECT body ->> %s FROM log' % path)",
    "connection.execute('DELETE FROM {}'.format(table))",
    "SQL = f'SELECT 1 FROM t WHERE n = {name.upper()}'",
    "connection.execute('SELECT ? FROM t'.replace('?', name))",
    "FORGET = 'DELETE FROM {}'\nconnection.execute(FORGET.format(table))",
]
PASSED = [
    "import json",
    "re.compile(text)",
    "PLACE = 'id, seq'\nSQL = f'SELECT {PLACE} FROM base'",
    "from .bases import PLACE\nSQL = f'SELECT {PLACE} FROM base' + PLACE",
    "connection.execute('SELECT body ->> ? FROM log', (path,))",
    "print(f'selected {name}')",
    "JsonPlusSerializer(allowed_msgpack_modules=None)",
]


@pytest.mark.parametrize("source", FLAGGED)
def test_what_must_not_be_is_found(source):
    assert list(findings(source))


@pytest.mark.parametrize("source", PASSED)
def test_what_may_be_is_not_found(source):
    assert list(findings(source)) == []
