"""A database made hostile through SQL: code where data should be, tables that are none, cycles and absurd numbers.

Each function takes a connection to a copy of the sample, which nothing defends, and a source of chance. Where data are
changed the guards are taken away and come back word by word, so that the schema is what it was.
"""

from __future__ import annotations

import apsw

CANARY = "canary"
"""A function that tells when it is called: nothing of a file's own may call it."""
RUNS_CODE = f"{CANARY}('ran')"
LOADS = "load_extension('/tmp/evil.so')"
DEEP = "[" * 20_000 + "]" * 20_000
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 10**17, -(10**17))
WRONG = (*NUMBERS, None, "x", "a\0b", b"\xff\xfe", 1.5, float("inf"), "", "😀" * 50, DEEP, "x" * 100_000)


def tables(connection):
    found = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    return [name for (name,) in found]


def edit_schema(connection, change):
    """Every statement of the schema through `change(type, name, sql)`."""
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    rows = connection.execute("SELECT rowid, type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    for rowid, kind, name, sql in rows:
        changed = change(kind, name, sql)
        if changed != sql:
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE rowid = ?", (changed, rowid)).fetchall()
    version = connection.pragma("schema_version")
    connection.execute(f"PRAGMA schema_version = {version + 1}").fetchall()
    connection.execute("PRAGMA writable_schema = OFF").fetchall()


def without_guards(connection):
    """Drop the triggers; gives the statements that bring them back."""
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}").fetchall()
    return [sql for _, sql in triggers]


def view_runs_code(connection, rng):
    name = rng.choice(("traces", "events", "runs", "deltas", "bases", "checkpoints", "barriers", "threads"))
    code = rng.choice((RUNS_CODE, LOADS, "readfile('/etc/passwd')", "writefile('/tmp/evil', 'x')", "edit('x')"))
    connection.execute(f"DROP VIEW {name}").fetchall()
    connection.execute(f"CREATE VIEW {name} AS SELECT {code} AS trace_id, name FROM trace").fetchall()


def another_view(connection, rng):
    connection.execute(f"CREATE VIEW more AS SELECT {RUNS_CODE}").fetchall()


def trigger_runs_code(connection, rng):
    table = rng.choice(("trace", "log", "base", "owner", "lease"))
    when = rng.choice(("INSERT", "UPDATE", "DELETE"))
    connection.execute(f"CREATE TRIGGER evil BEFORE {when} ON {table} BEGIN SELECT {RUNS_CODE}; END").fetchall()


def guard_runs_code(connection, rng):
    edit_schema(connection, lambda kind, name, sql: sql.replace("SELECT RAISE", f"SELECT {RUNS_CODE}; SELECT RAISE", 1)
                if kind == "trigger" else sql)  # fmt: skip


def table_is_a_view(connection, rng):
    table = rng.choice(("trace", "log", "base", "root", "checkpoint", "tombstone", "scope", "barrier"))
    connection.execute("PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON").fetchall()
    connection.execute(f"ALTER TABLE {table} RENAME TO hidden").fetchall()
    columns = [row[1] for row in connection.execute("PRAGMA table_info(hidden)")]
    columns[rng.randrange(len(columns))] = f"{RUNS_CODE} AS {columns[-1]}"
    connection.execute(f"CREATE VIEW {table} AS SELECT {', '.join(columns)} FROM hidden").fetchall()


def generated_column(connection, rng):
    table = rng.choice(("trace", "log", "base"))
    connection.execute(f"ALTER TABLE {table} ADD COLUMN more TEXT GENERATED ALWAYS AS (hex(name)) VIRTUAL"
                       .replace("name", "id")).fetchall()  # fmt: skip
    edit_schema(connection, lambda kind, name, sql: sql.replace("hex(id)", RUNS_CODE))


def check_runs_code(connection, rng):
    edit_schema(
        connection,
        lambda kind, name, sql: sql.replace("CHECK (", f"CHECK ({RUNS_CODE} OR ") if kind == "table" else sql,
    )


def index_runs_code(connection, rng):
    connection.execute("CREATE INDEX evil ON trace (hex(name))").fetchall()
    edit_schema(
        connection, lambda kind, name, sql: sql.replace("hex(name)", f"{CANARY}(name)") if name == "evil" else sql
    )


def default_runs_code(connection, rng):
    edit_schema(connection, lambda kind, name, sql: sql.replace("DEFAULT 'running'", f"DEFAULT ({RUNS_CODE})"))


def huge_default(connection, rng):
    edit_schema(connection, lambda kind, name, sql: sql.replace("DEFAULT 'running'", "DEFAULT (zeroblob(2000000000))"))


def virtual_table(connection, rng):
    how = rng.choice(("fts5(a)", "fts4(a)", "rtree(a, b, c)", "dbstat", "geopoly(a)"))
    connection.execute(f"CREATE VIRTUAL TABLE evil USING {how}").fetchall()


def log_is_virtual(connection, rng):
    how = rng.choice(("fts5(trace)", "dbstat", "json_each", "csv(filename='/etc/passwd')", "nothing(1)"))
    edit_schema(connection, lambda kind, name, sql: f"CREATE VIRTUAL TABLE log USING {how}" if name == "log" else sql)


def without_rowid(connection, rng):
    edit_schema(connection, lambda kind, name, sql: sql.replace(") STRICT", ") STRICT, WITHOUT ROWID")
                if name in ("trace", "log", "base") else sql)  # fmt: skip


def with_rowid(connection, rng):
    edit_schema(connection, lambda kind, name, sql: sql.replace("WITHOUT ROWID", "") if kind == "table" else sql)


def recursive_view(connection, rng):
    connection.execute("DROP VIEW runs").fetchall()
    connection.execute(
        "CREATE VIEW runs AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT max(i) AS trace_id FROM n"
    ).fetchall()


def quadratic_view(connection, rng):
    connection.execute("DROP VIEW traces").fetchall()
    many = ", ".join(f"log l{number}" for number in range(8))
    connection.execute(f"CREATE VIEW traces AS SELECT count(*) AS trace_id FROM {many}").fetchall()


def huge_schema(connection, rng):
    edit_schema(connection, lambda kind, name, sql: sql + f" -- {'x' * 1_000_000}" if name == "traces" else sql)


def deep_schema(connection, rng):
    deep = f"CREATE VIEW traces AS SELECT {'(' * 3000}1{')' * 3000} AS trace_id"
    edit_schema(connection, lambda kind, name, sql: deep if name == "traces" else sql)


def many_tables(connection, rng):
    connection.execute("PRAGMA journal_mode = OFF; BEGIN").fetchall()
    for number in range(rng.choice((300, 10_000))):
        connection.execute(f"CREATE TABLE t{number} (a)").fetchall()
    connection.execute("COMMIT").fetchall()


def many_columns(connection, rng):
    connection.execute(f"CREATE TABLE wide ({', '.join(f'c{number}' for number in range(1900))})").fetchall()


def unknown_collation(connection, rng):
    edit_schema(
        connection,
        lambda kind, name, sql: sql.replace("trace_id   TEXT NOT NULL", "trace_id   TEXT COLLATE evil NOT NULL"),
    )


def broken_schema(connection, rng):
    name_of = rng.choice(("trace", "log", "traces", "log_append", "trace_forks", "base"))
    edit_schema(connection, lambda kind, name, sql: rng.choice(("CREATE", "", "x", "CREATE TABLE log AS SELECT 1",
                "SELECT 1", "CREATE TABLE (", sql[: len(sql) // 2])) if name == name_of else sql)  # fmt: skip


def one_place(connection, rng):
    """Two tables whose rows are the same pages."""
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    one, other = rng.sample(("trace", "log", "base", "owner", "scope", "lease"), 2)
    root = "(SELECT rootpage FROM sqlite_schema WHERE name = ?)"
    connection.execute(f"UPDATE sqlite_schema SET rootpage = {root} WHERE name = ?", (one, other)).fetchall()


def odd_schema_row(connection, rng):
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    column = rng.choice(("type", "name", "tbl_name", "rootpage", "sql"))
    value = rng.choice((None, "x", 0, 10**9, -1, b"\xff", "trace", "log", "\0"))
    rows = connection.execute("SELECT rowid FROM sqlite_schema").fetchall()
    connection.execute(f"UPDATE sqlite_schema SET {column} = ? WHERE rowid = ?", (value, *rng.choice(rows))).fetchall()


def poisoned_statistics(connection, rng):
    connection.execute("ANALYZE").fetchall()
    text = rng.choice(("0 0 0 0", "9223372036854775807 1 1", "x" * 10_000, "unordered", "1 noskipscan sz=0", "-1 -1"))
    connection.execute("PRAGMA writable_schema = ON").fetchall()
    connection.execute("UPDATE sqlite_stat1 SET stat = ?", (text,)).fetchall()
    connection.execute("UPDATE sqlite_stat4 SET sample = ?, neq = ?", (rng.randbytes(40), text)).fetchall()


def cyclic_parents(connection, rng):
    without = without_guards(connection)
    ids = [row[0] for row in connection.execute("SELECT id FROM trace ORDER BY id").fetchall()]
    one, other = rng.sample(ids, 2)
    fork_seq = rng.choice((1, 3, 10**6, 2**62))
    connection.execute("PRAGMA foreign_keys = OFF").fetchall()
    for child, parent in rng.choice((((one, one),), ((one, other), (other, one)))):
        connection.execute(
            "UPDATE trace SET parent = ?, fork_seq = ? WHERE id = ?", (parent, fork_seq, child)
        ).fetchall()
    restore(connection, without)


def parents_gone(connection, rng):
    without = without_guards(connection)
    connection.execute("PRAGMA foreign_keys = OFF").fetchall()
    connection.execute(
        "UPDATE trace SET parent = ? WHERE parent IS NOT NULL", (rng.choice((999, -1, 2**62)),)
    ).fetchall()
    restore(connection, without)


def cyclic_bases(connection, rng):
    """Bases that stand on one another, their checksums right."""
    from eventstore.bases import Place

    without = without_guards(connection)
    rows = connection.execute(
        "SELECT id, trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, CAST(body AS BLOB) FROM base"
        " WHERE parent IS NOT NULL ORDER BY id"
    ).fetchall()
    for row_id, trace, seq, _, *sizes, body in rows:
        parent = rng.choice((row_id, rows[0][0], rows[-1][0]))
        crc = Place(trace, seq, parent, *sizes).checksum(body)
        connection.execute("UPDATE base SET parent = ?, checksum = ? WHERE id = ?", (parent, crc, row_id)).fetchall()
    restore(connection, without)


def wrong_values(connection, rng):
    """Values of any kind in any column, under the schema that forbids them."""
    table = rng.choice(tables(connection))
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "id"]
    column = rng.choice(columns)
    value = rng.choice(WRONG)
    without = without_guards(connection)
    originals = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())
    edit_schema(connection, lambda kind, name, sql: relaxed(sql) if name == table else sql)
    loose = reopened(connection)
    try:
        where = (
            rng.choice(("", f" WHERE rowid % {rng.randrange(1, 4)} = 0")) if "WITHOUT" not in originals[table] else ""
        )
        loose.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").fetchall()
        loose.execute(f"UPDATE OR IGNORE {table} SET {column} = ?{where}", (value,)).fetchall()
        edit_schema(loose, lambda kind, name, sql: originals[name])
    finally:
        loose.close()
    strict = reopened(connection)
    restore(strict, without)
    strict.close()


def relaxed(sql):
    """A table's statement under which any value goes in."""
    return (
        sql.replace("NOT NULL", "").replace(" INTEGER ", " ANY ").replace(" TEXT ", " ANY ").replace(" BLOB ", " ANY ")
    )


TIMES = (
    ("log", "at_us"),
    ("trace", "created_us"),
    ("checkpoint", "created_us"),
    ("root", "at_us"),
    ("barrier", "deadline_us"),
    ("lease", "due_us"),
    ("tombstone", "erased_us"),
    ("base", "at_us"),
)


def times(connection, rng):
    without = without_guards(connection)
    value = rng.choice(NUMBERS)
    for table, column in rng.sample(TIMES, 3):
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,)).fetchall()
    restore(connection, without)


def places(connection, rng):
    without = without_guards(connection)
    connection.execute("PRAGMA ignore_check_constraints = ON").fetchall()
    column = rng.choice(("first_seq", "n", "trace"))
    change = rng.choice((f"{column} + {2**62}", f"-{column}", f"{2**63 - 1} - {column}", f"{column} * 2", "0"))
    connection.execute(f"UPDATE OR IGNORE log SET {column} = {change} WHERE id % {rng.randrange(1, 5)} = 0").fetchall()
    restore(connection, without)


BODIES = (
    DEEP,
    "[]",
    "{}",
    "null",
    '[{"kind":"delta"}]' * 1000,
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 50_000,
    "[" + '{"kind":"node_executed","data":[]},' * 3 + "{}]",
    b"\xff",
    "",
    '[{"key":"x","op":"sum","value":1e308}]',
    '[{"kind":"trace_started","data":{"state":[]}}]',
    '[{"key":"n","value":123456789012345678901234567890}]',
)


def bodies(connection, rng):
    """Bodies that hold anything but events."""
    without = without_guards(connection)
    connection.execute("PRAGMA ignore_check_constraints = ON").fetchall()
    value = rng.choice(BODIES)
    table = rng.choice(("log", "base", "root"))
    connection.execute(
        f"UPDATE {table} SET body = ? WHERE rowid % 2 = 0".replace("rowid", "trace"), (value,)
    ).fetchall()
    restore(connection, without)


def no_rows(connection, rng):
    without = without_guards(connection)
    connection.execute("PRAGMA foreign_keys = OFF").fetchall()
    connection.execute(f"DELETE FROM {rng.choice(tables(connection))}").fetchall()
    restore(connection, without)


def lost_rows(connection, rng):
    without = without_guards(connection)
    connection.execute("PRAGMA foreign_keys = OFF").fetchall()
    connection.execute(f"DELETE FROM log WHERE id % {rng.randrange(2, 9)} = 1").fetchall()
    restore(connection, without)


ASTRAY = (
    "UPDATE scope_checkpoint SET parent = name",
    "UPDATE scope_checkpoint SET seq = -1, trace = 999",
    "UPDATE scope_checkpoint SET writes = '[[1]]'",
    "UPDATE scope_checkpoint SET writes = '{\"a\":[1,2]}'",
    "UPDATE scope SET journal = 999",
    "UPDATE scope_trace SET scope = 999",
    "UPDATE scope_checkpoint SET metadata = '[]'",
    f"UPDATE scope_checkpoint SET writes = '[[{2**63 - 1},{2**63 - 1}]]'",
)


def threads_astray(connection, rng):
    without = without_guards(connection)
    connection.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").fetchall()
    for sql in rng.sample(ASTRAY, 2):
        connection.execute(sql).fetchall()
    restore(connection, without)


def other_marks(connection, rng):
    mark = rng.choice(("user_version", "application_id"))
    connection.execute(f"PRAGMA {mark} = {rng.choice((0, 1, 3, 99, 2**31 - 1, -1))}").fetchall()


def restore(connection, statements):
    for sql in statements:
        connection.execute(sql).fetchall()


def reopened(connection):
    return apsw.Connection(connection.filename)


SQL = (
    view_runs_code, view_runs_code, another_view, trigger_runs_code, guard_runs_code, table_is_a_view, generated_column,
    check_runs_code, index_runs_code, default_runs_code, huge_default, virtual_table, log_is_virtual, without_rowid,
    with_rowid, recursive_view, quadratic_view, huge_schema, deep_schema, many_tables, many_columns, unknown_collation,
    broken_schema, one_place, odd_schema_row, poisoned_statistics, cyclic_parents, parents_gone, cyclic_bases,
    wrong_values, wrong_values, wrong_values, wrong_values, times, times, places, places, bodies, bodies, no_rows,
    lost_rows, threads_astray, threads_astray, other_marks,
)  # fmt: skip
