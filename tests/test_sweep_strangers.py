"""Stores of strangers: damaged, or made to do harm; what is read of them, and what is shown."""

import random
import re
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import parallelkit as pk
from parallelkit.errors import StoreError

HEAD = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
HUGE = b"\x93NUMPY\x01\x00" + len(HEAD).to_bytes(2, "little") + HEAD
POINT = "UPDATE points SET {} = {} WHERE id = 2"
SWEEP = "UPDATE sweeps SET identity = {}"
DAMAGES = [
    *(POINT.format("params", told) for told in ("'x'", "NULL", "1", "'[1]'", "x'ff'")),
    *(POINT.format("position", told) for told in ("'x'", "NULL")),
    *(POINT.format("result", told) for told in ("'{\"zz\":1}'", "'1'", "x'ff'")),
    POINT.format("result", "'" + "[" * 50_000 + "'"),
    *(
        POINT.format("result", f"'{{\"y\":{told}}}'")
        for told in (
            *('{"~dec":"x"}', '{"~frac":"1/0"}', '{"~td":[99999999999]}', '{"~new":1}'),
            *('{"~blob":7}', '{"~s":[[]]}', '{"~o":[[3],[1]]}', '{"~np":["O","1"]}'),
            *('{"~file":1}', '{"~file":["../../secret.npy","array"]}'),
        )
    ),
    *(POINT.format("seed", told) for told in ("'x'", "x'00'")),
    *(POINT.format("started", told) for told in ("'x'", "1e300", "-1e300")),
    *(POINT.format("seconds", "'x'"), POINT.format("status", "'fine'")),
    *(POINT.format("curve", told) for told in ("'x'", "'[1]'", "'[[1,2,3]]'", "'[[1,\"x\"]]'")),
    *(POINT.format("code", "77"), POINT.format("attempt", "'x'"), POINT.format("error", "x'00'")),
    *(f"UPDATE blobs SET data = x'{data.hex()}'" for data in (b"", HUGE, b"PK\3\4" + bytes(9))),
    "UPDATE blobs SET data = 'text'",
    "DELETE FROM names WHERE name = 'y'",
    *(SWEEP.format(told) for told in ("'x'", "'{}'", "'[]'", "NULL", "x'ff'")),
    SWEEP.format("json_set(identity, '$.frozen', 'x')"),
    "UPDATE sweeps SET version = 'x'",
    "UPDATE meta SET value = '1' WHERE name = 'format'",
    "DELETE FROM codes",
    "UPDATE codes SET parts = '[]', digest = NULL",
    "UPDATE runs SET told = '[]'",
    "ALTER TABLE points ADD COLUMN more",
    "CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM meta; END",
    "CREATE VIEW v AS SELECT 1",
    "CREATE INDEX i ON points (abs(position))",
    None,
]


def work(x):
    return {"y": x * 2, "a": np.arange(3)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.db"
    pk.Sweep(store=path, seed=1, backend="serial").run(work, pk.grid(x=[1, 2]))
    return path


@pytest.fixture
def path(base, tmp_path):
    return shutil.copy(base, tmp_path / "run.db")


def change(path, statement):
    """Damage a store by a statement, or bytes of its schema."""
    if statement is None:
        data = Path(path).read_bytes()
        at = re.search(rb"CREATE TABLE points", data).start() + 9
        Path(path).write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
        return
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def look(path):
    table = pk.open_sweep(path)
    _ = len(table), list(table), repr(table), table._repr_html_(), table.failed
    _ = table.to_csv(), table.provenance, table.notes, table.best("y")


def go_on(path):
    options = {"store": path, "seed": 1, "backend": "serial", "on_change": "ignore"}
    repr(pk.Sweep(**options).run(work, pk.grid(x=[1, 2, 3])))


@pytest.mark.parametrize("statement", DAMAGES, ids=lambda told: str(told)[:60])
def test_every_damage_is_a_store_error(path, statement):
    """Reading tells what is wrong with a file; going on tells it, or does without: nothing else."""
    change(path, statement)
    with pytest.raises(StoreError, match=re.escape(repr(str(path)))):
        look(path)
    with suppress(StoreError):
        go_on(path)


def test_a_view_without_end_is_refused(path):
    """A table that is a program is not run: opening says that it is no store."""
    change(path, "ALTER TABLE points RENAME TO other")
    change(
        path,
        "CREATE VIEW points AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
        "SELECT x AS id, x AS key, 1 AS sweep FROM c",
    )
    for use in (look, go_on):
        with pytest.raises(StoreError, match=r"not the store|another version"):
            use(path)


def test_other_tables_do_no_harm(path):
    """What somebody added beside ours is left alone."""
    change(path, "CREATE TABLE mine (a)")
    look(path)
    go_on(path)


def test_nothing_is_written_to_a_store_that_is_read(path):
    """Reading leaves the file, and the folder, as they were."""
    before = Path(path).read_bytes()
    look(path)
    assert Path(path).read_bytes() == before
    assert [one.name for one in Path(path).parent.iterdir()] == ["run.db"]


def test_control_characters_do_not_reach_the_terminal(path, command):
    """Names, texts and tracebacks are shown without what a terminal obeys."""
    escape = "char(27) || '[31m' || char(7)"
    change(path, f"UPDATE sweeps SET function = {escape} || function, version = '\"\\u001b[2J\"'")
    change(path, f"UPDATE names SET name = {escape} WHERE name = 'y'")
    change(path, "UPDATE points SET result = '{\"\\u001b[31m\\u0007\":1}'")
    failed = f"status = 'failed', result = NULL, error = {escape}, traceback = {escape}"
    change(path, f"UPDATE points SET {failed} WHERE id = 2")
    change(path, "UPDATE runs SET told = json_set(told, '$.host', char(27) || '[2J')")
    table = pk.open_sweep(path)
    shown = (
        command(["-m", "parallelkit", "show", path, *arguments]).out
        for arguments in ([], ["--top", "5"], ["--failed"], ["--provenance"])
    )
    for text in (repr(table), table._repr_html_(), *shown):
        assert "[31m" in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", text)


def test_formulas_in_csv(tmp_path):
    """Cells that a spreadsheet would run are texts where that is asked for; numbers stay numbers."""
    texts = ["=1+1", "+x", "-x", "@x", "\tx", "-1.5", "x=1", ""]
    table = pk.sweep(lambda x: {"=y": texts[x], "z": -x}, pk.grid(x=range(len(texts))))
    plain, safe = (table.to_csv(formulas=formulas).splitlines() for formulas in (True, False))
    assert plain[0].startswith("x,=y,z")
    assert plain[1].startswith("0,=1+1,0")
    assert safe[0].startswith("x,'=y,z")
    cells = [line.split(",")[1] for line in safe[1:]]
    assert cells == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "-1.5", "x=1", ""]
    assert safe[2].split(",")[2] == "-1"
    table.to_csv(tmp_path / "safe.csv", formulas=False)
    assert (tmp_path / "safe.csv").read_text().splitlines() == safe


def test_notes_are_read_back(tmp_path):
    """Notes of any name are kept beside what the store says of itself, the last text of each."""
    path = tmp_path / "run.db"
    notes = {"identity": "mine", "format": "7", "pickle": "1", "format2": "ünï"}
    for more in ({}, {"format": "8"}):
        pk.Sweep(store=path, notes={**notes, **more}, backend="serial").run(work, pk.grid(x=[1]))
    assert pk.open_sweep(path).notes == {**notes, "format": "8"}
    assert pk.sweep(work, pk.grid(x=[1])).notes == {}
    with pytest.raises(TypeError, match="texts by name"):
        pk.Sweep(store=path, notes={"n": 3})


def test_random_damage_is_a_store_error(base, tmp_path):
    """Bytes that changed, moved or are missing give a StoreError, or do not matter."""
    chance, data = random.Random(19), base.read_bytes()
    told = []
    for trial in range(60):
        damaged = bytearray(data)
        if trial % 3 == 0:
            for _ in range(chance.choice([1, 20])):
                damaged[chance.randrange(len(data))] = chance.randrange(256)
        elif trial % 3 == 1:
            del damaged[chance.randrange(len(data)) :]
        else:
            at, start, count = (chance.randrange(n) for n in (len(data), len(data), 2000))
            damaged[at : at + count] = data[start : start + count]
        path = tmp_path / f"{trial}.db"
        for use in (look, go_on):
            path.write_bytes(damaged)
            try:
                use(path)
            except StoreError as error:
                told.append(str(error))
    assert len(told) > 20
    assert all(map(str.isprintable, told))
