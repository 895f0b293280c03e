"""The house: imports point one way, one layer speaks SQL, and every public name explains itself."""

from __future__ import annotations

import ast
import enum
import inspect
import pickle
import re
import typing
from pathlib import Path

import pytest

import eventstore as es

PACKAGE = Path(es.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text("utf-8")) for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
CORE = ["errors", "event", "opaque", "readable", "codec", "fold", "reduce", "control", "link", "policy", "record",
        "checkpoint", "barrier", "chain", "mutation", "run_event", "scope_event", "recorded", "forking",
        "diffing", "definition", "retrying", "plan", "graph_check", "effects", "regraphing", "run_stream",
        "span", "spanning", "waiting", "axis", "chart", "picture"]  # fmt: skip
SQL = ["database", "log", "bases", "retention", "checkpoints", "writer", "pending", "store", "reader", "statistics",
       "verify", "threads", "turnstile", "inbox", "ownership", "feed", "forks", "blockers", "retention_plan",
       "retention_apply", "scopes", "scope_places", "encryption", "foreign", "attached", "wal",
       "backup", "salvaging", "salvage_pages", "salvage_rows", "salvage_traces", "salvage_beside", "log_check",
       "row_check", "base_check"]  # fmt: skip


def imported(module, ours_only=False):
    """The modules that a module imports when it is loaded."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import) and not ours_only:
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.update([] if ours_only else [node.module])
            elif node.module is None:
                found.update(alias.name for alias in node.names)
            else:
                found.add(node.module)
    return found


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_no_database_no_files_and_no_clock(module):
    assert not imported(module) & {"apsw", "sqlite3", "os", "time", "threading", "asyncio", "pathlib", "random"}


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_the_core_only(module):
    assert imported(module, ours_only=True) <= set(CORE)


def test_imports_point_one_way():
    graph = {module: imported(module, ours_only=True) & MODULES.keys() for module in MODULES}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"a circle of imports: {' -> '.join([*path, module])}"
        if module not in done:
            path.append(module)
            for other in sorted(graph[module]):
                visit(other)
            done.add(path.pop())

    for module in sorted(graph):
        visit(module)


def test_nothing_imports_the_faces():
    for module in MODULES.keys() - {"aio", "runs_async", "__main__"}:
        assert not imported(module, ours_only=True) & {"aio", "cli"}, module


def strings(module):
    """The string literals of a module that are no docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


SPEAKS_SQL = re.compile(
    r"\b(SELECT|INSERT INTO|INSERT OR|DELETE FROM|UPDATE \w+ SET|PRAGMA|BEGIN|COMMIT|ROLLBACK|VACUUM)\b"
)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - set(SQL)))
def test_sql_is_spoken_in_one_layer_only(module):
    assert [text for text in strings(module) if SPEAKS_SQL.search(text)] == []


@pytest.mark.parametrize("module", sorted(MODULES.keys() - set(SQL)))
def test_apsw_is_imported_in_one_layer_only(module):
    assert not imported(module) & {"apsw", "sqlite3"}


EDGES = [path for part in ("analysis", "transfer", "integrations", "cli") for path in (PACKAGE / part).rglob("*.py")]
SQL_OF_EDGES = {"analysis/check", "analysis/schema", "analysis/source", "analysis/target", "langgraph/sqlite_file",
                "transfer/incoming", "transfer/loading", "transfer/outgoing"}  # fmt: skip


@pytest.mark.parametrize("path", EDGES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_edge_says_what_it_is_and_speaks_sql_only_where_that_is_its_work(path):
    module = f"{path.parent.name}/{path.stem}"
    MODULES[module] = ast.parse(path.read_text("utf-8"))
    try:
        assert ast.get_docstring(MODULES[module])
        if module not in SQL_OF_EDGES:
            assert [text for text in strings(module) if SPEAKS_SQL.search(text)] == []
            assert not imported(module) & {"apsw", "sqlite3"}
    finally:
        del MODULES[module]


@pytest.mark.parametrize("module", list(MODULES))
def test_every_module_begins_with_what_it_is(module):
    assert ast.get_docstring(MODULES[module])


# The public face


def test_all_is_sorted_and_whole():
    assert es.__all__ == sorted(es.__all__) and len(set(es.__all__)) == len(es.__all__)
    names = {name for name, value in vars(es).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(es.__all__) == names


@pytest.mark.parametrize("name", es.__all__)
def test_every_public_name_explains_itself(name):
    value = getattr(es, name)
    if typing.get_origin(value) is not None or value is es.Decision:
        return  # a union of classes that do
    documented = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    assert (documented.__doc__ or "").strip(), name
    assert (
        documented.__doc__ != getattr(documented.__mro__[1], "__doc__", None) if inspect.isclass(documented) else True
    )


MADE_BY_OTHERS = {"Store", "Trace", "Step", "CheckpointStore", "FoldPolicy", "AsyncStore", "AsyncTrace", "AsyncStep",
                  "AsyncCheckpointStore"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(es.__all__) - MADE_BY_OTHERS))
def test_every_public_class_and_function_has_an_example(name):
    value = getattr(es, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert ">>>" in value.__doc__, name


@pytest.mark.parametrize("name", [name for name in es.__all__ if inspect.isclass(getattr(es, name))])
def test_every_public_method_explains_itself(name):
    cls = getattr(es, name)
    if issubclass(cls, BaseException | enum.Enum):
        return
    members = {
        name: value
        for base in cls.__mro__
        if base.__module__.startswith("eventstore")
        for name, value in vars(base).items()
    }
    for attribute, value in members.items():
        if not attribute.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{attribute}"


def test_every_error_has_one_root():
    errors = [value for value in vars(es).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert {error for error in errors if not issubclass(error, es.EventStoreError)} == {es.BaseCorrupted}


@pytest.mark.parametrize(
    "error",
    [
        es.ValueRefused("a.b", "why"),
        es.WrongExpectedVersion("t1", 2, 1),
        es.AppendIdReused("t1", "job", 5),
        es.TraceNotFound("t1"),
        es.MissingKey("k"),
        es.DeltaApply("k", "sum", "why"),
        es.StateConflict("k", ["a", "b"]),
        es.ReducerConflict("k", "sum", "why"),
        es.Trimmed("t1", 3, 90, 40),
        es.StoreHalted("runs.db", "why", "t1", "job", 5),
        es.FormatTooNew("runs.db", 9, 3),
        es.LogCorrupted("runs.db", "t1", 7, "why"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_attributes_between_processes(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_the_newest_format_is_the_number_of_schema_scripts():
    from eventstore.database import FORMAT, schema_scripts

    assert len(schema_scripts()) == FORMAT
