"""Opening a disk: what is wrong with it is named, what was found, and what would be right."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from rocksdict import Options, Rdict
from tests.node.node_processes import CLUSTER_ID, SECRET, NodeProcess

from dynamo_core.errors import CallerError, DynamoError
from dynamo_node import opening
from dynamo_node.config import Config, parse
from dynamo_node.disk import FORMAT, open_disk
from dynamo_node.opening import DamagedError, LockedError, StorageError
from dynamo_node.storage import META, OBJECTS, Store

pytestmark = pytest.mark.timeout(30)

KEYS = 300

Spoil = Callable[[Path], None]


def _config(folder: Path, **settings: Any) -> Config:
    return parse(
        {
            "cluster": {"name": "cart", "id": CLUSTER_ID},
            "keys": [{"id": 1, "secret": SECRET}],
            "node": {"name": "solo"},
            "data_dir": str(folder / "data"),
            "storage": {"memory_bytes": 16 << 20},
            **settings,
        }
    )


@pytest.fixture
async def made(tmp_path: Path) -> Path:
    """A folder with the disk of node `solo`, with tables and a log."""
    disk = await open_disk(_config(tmp_path))
    store = disk.store
    for at in range(KEYS):
        if at == KEYS // 2:
            await store.durable()
            store._families[OBJECTS].flush()
        store.put(OBJECTS, b"%05d" % at, os.urandom(500))
    await store.durable()
    # Taken while it is open: closing would leave tables alone.
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    await store.close()
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "copy").rename(tmp_path / "data")
    return tmp_path


async def _refused(config: Config, kind: type[DynamoError], create: bool = True) -> str:
    with pytest.raises(kind) as refused:
        await open_disk(config, create=create)
    return str(refused.value)


def _table(folder: Path) -> Path:
    return max((folder / "data" / "db").glob("*.sst"), key=lambda path: path.stat().st_size)


def _log(folder: Path) -> Path:
    """The newest one: RocksDB itself misses what an older one should have."""
    return max((folder / "data" / "db").glob("*.log"))


async def _meta(folder: Path, change: Callable[[Store], None]) -> None:
    store = Store(folder / "data" / "db", sync=True, memory_bytes=16 << 20)
    change(store)
    await store.durable()
    await store.close()


def _facts(**others: Any) -> bytes:
    facts = {"format": FORMAT, "cluster_id": CLUSTER_ID, "name": "solo", "disk_id": "d" * 32}
    return json.dumps({**facts, **others}).encode()


# What only a person can mend


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            b"\x00garbage",
            ["can't be read", r"\x00garbage", "should be JSON", "Nothing was changed"],
        ),
        (b'{"format": 1}', ["KeyError('cluster_id')", "cluster_id, name and disk_id"]),
        (_facts(format=FORMAT + 1), [f"format {FORMAT + 1}", f"reads 1..{FORMAT}"]),
        (_facts(format=0), ["format 0", f"reads 1..{FORMAT}"]),
        (
            _facts(cluster_id="12" * 16),
            [f"of cluster {'12' * 16}", f"this node is of {CLUSTER_ID}"],
        ),
        (_facts(name="other"), ["the disk of node 'other'", "this is 'solo'"]),
        (None, ["holds objects", "not the record that says whose disk it is", "name another"]),
    ],
)
async def test_a_disk_that_is_not_this_nodes(
    made: Path, record: bytes | None, said: list[str]
) -> None:
    def change(store: Store) -> None:
        if record is None:
            store.delete(META, b"format")
        else:
            store.put(META, b"format", record)

    await _meta(made, change)
    text = await _refused(_config(made), CallerError)
    for part in ["data", "othing was changed on it", *said]:
        assert part.lower() in text.lower(), text
    await _refused(_config(made), CallerError)  # and the same again


async def test_a_rocksdb_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "data" / "db"
    path.mkdir(parents=True)
    foreign = Rdict(str(path), Options(raw_mode=True))
    foreign[b"k"] = b"v"
    foreign.close()
    text = await _refused(_config(tmp_path), CallerError)
    assert "column families default, not one of this store" in text
    assert "Name another data_dir" in text


async def test_a_manifest_that_was_cut_short(made: Path) -> None:
    os.truncate(next((made / "data" / "db").glob("MANIFEST-*")), 10)
    assert "its MANIFEST was cut short" in await _refused(_config(made), CallerError)
    assert _table(made).exists()


@pytest.mark.parametrize("where", ["data", "data/db", "."])
async def test_a_file_where_a_folder_should_be(tmp_path: Path, where: str) -> None:
    if where == ".":
        (tmp_path / "file").write_text("x")
        text = await _refused(_config(tmp_path, data_dir=str(tmp_path / "file/x")), CallerError)
        assert "lies below a file; a folder is needed" in text
        return
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("x")
    text = await _refused(_config(tmp_path), CallerError)
    assert f"{tmp_path / where} is a file; a folder is needed" in text
    assert (tmp_path / where).read_text() == "x"


async def test_a_folder_of_somebody_else(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening.os, "access", lambda *_: False)  # root may do anything
    text = await _refused(_config(made), CallerError)
    owner = (made / "data" / "db").stat()
    assert f"Permission denied: {made / 'data' / 'db'} belongs to uid {owner.st_uid}" in text
    assert f"mode {owner.st_mode & 0o7777:04o}" in text
    assert f"this process runs as uid {os.getuid()}, which has to read and write there" in text


async def test_a_store_that_another_process_has_open(made: Path) -> None:
    """And one that this process has."""
    script = (
        "import sys; from rocksdict import *; "
        f"db = Rdict({str(made / 'data' / 'db')!r}, *[Options(raw_mode=True)], "
        "column_families={n: Options(raw_mode=True) for n in ('objects','hints','meta','trees')}); "
        "print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        text = await _refused(_config(made), LockedError)
        assert f"can't be opened: process {holder.pid} has it open" in text
        assert "a data_dir of its own" in text
    finally:
        holder.kill()
        holder.communicate()
    disk = await open_disk(_config(made))
    assert "this process itself has it open" in await _refused(_config(made), LockedError)
    await disk.store.close()


def test_such_a_start_ends_with_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    ports = free_ports(3)
    settings = {"data_dir": str(tmp_path / "data")}
    node = NodeProcess(tmp_path, "solo", (ports[0], ports[1], ports[2]), settings)
    node.start()
    assert node.wait_end() == 2
    (line,) = node.log().splitlines()
    assert line.startswith("dynamo-node: data_dir ")
    assert "is a file; a folder is needed" in line


# Damage


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


SPOILS: dict[str, tuple[Callable[[Path], Path], Spoil]] = {
    "table gone": (_table, Path.unlink),
    "table cut": (_table, _truncated),
    "CURRENT gone": (lambda folder: folder / "data" / "db" / "CURRENT", Path.unlink),
    "CURRENT empty": (
        lambda folder: folder / "data" / "db" / "CURRENT",
        lambda path: path.write_text(""),  # type: ignore[arg-type, func-returns-value, return-value]
    ),
    "manifest gone": (
        lambda folder: next((folder / "data" / "db").glob("MANIFEST-*")),
        Path.unlink,
    ),
}


@pytest.mark.parametrize("what", SPOILS)
async def test_damage_is_named_with_its_file_and_nothing_is_made_over_it(
    made: Path, what: str
) -> None:
    where, spoil = SPOILS[what]
    path = where(made)
    spoil(path)
    before = {p.name for p in (made / "data" / "db").iterdir()}
    for _ in range(2):
        text = await _refused(_config(made), DamagedError)
        assert path.name.partition("-")[0] in text, text
        assert f"stop the node, move {made / 'data'} away and start it again" in text
        assert "rebuilds itself" in text
        assert "\n" not in text
    left = {p.name for p in (made / "data" / "db").iterdir()}
    assert {n for n in before if n.endswith((".sst", ".log"))} <= left


async def _read_all(folder: Path) -> int:
    disk = await open_disk(_config(folder))
    try:
        return len(await disk.store.scan_async(OBJECTS, b"", b"\xff" * 9, 2 * KEYS))
    finally:
        await disk.store.close()


async def test_the_torn_end_of_a_log_is_what_was_never_acknowledged(made: Path) -> None:
    """A power cut in the middle of a write: all before it is there."""
    log = _log(made)
    size = log.stat().st_size
    with log.open("ab") as file:  # a record that begins and has no end
        file.write(log.read_bytes()[: size // 3][-700:])
    assert await _read_all(made) == KEYS
    assert await _read_all(made) == KEYS


@pytest.mark.parametrize("what", ["damaged", "cut", "gone"])
async def test_a_log_that_lacks_what_was_synced_is_noticed(made: Path, what: str) -> None:
    """RocksDB takes it for the end of the log, as after a power cut, and says nothing."""
    log = _log(made)
    middle = log.stat().st_size // 2
    if what == "damaged":
        with log.open("r+b") as file:
            file.seek(middle)
            file.write(b"\xff" * 100)
    elif what == "cut":
        os.truncate(log, middle)
    else:
        log.unlink()
    disk = await open_disk(_config(made))
    left = len(await disk.store.scan_async(OBJECTS, b"", b"\xff" * 9, 2 * KEYS))
    assert KEYS // 2 <= left < KEYS
    assert disk.store.fell_behind
    await disk.store.close()


async def test_a_whole_log_is_believed_and_so_is_one_of_another_store(made: Path) -> None:
    note = made / "data" / "synced"
    identity, sequence = note.read_text().split()
    for _ in range(2):
        disk = await open_disk(_config(made))
        assert not disk.store.fell_behind
        disk.store.put(OBJECTS, b"more", b"v")
        await disk.store.durable()
        assert int(note.read_text().split()[1]) > int(sequence)
        await disk.store.close()
    for text in ("", "x", f"{identity} x", f"other {10**18}", "\x00" * 50):
        note.write_text(text)
        disk = await open_disk(_config(made))
        assert not disk.store.fell_behind
        await disk.store.close()


async def test_a_first_start_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    """Nothing was stored yet, so nothing is made over."""
    path = tmp_path / "data" / "db"
    path.mkdir(parents=True)
    (path / "MANIFEST-000001").write_bytes(b"half")
    (path / "LOCK").write_bytes(b"")
    disk = await open_disk(_config(tmp_path))
    assert disk.fresh
    await disk.store.close()


async def test_a_disk_that_went_away_is_not_made_anew_by_the_process_that_had_it(
    made: Path,
) -> None:
    (made / "data").rename(made / "away")
    for empty in (False, True):
        if empty:
            (made / "data" / "db").mkdir(parents=True)
        text = await _refused(_config(made), StorageError, create=False)
        assert "is empty, and this process had a disk there" in text
        assert not list((made / "data").rglob("*.log")), "nothing was made"
    shutil.rmtree(made / "data")
    (made / "away").rename(made / "data")
    disk = await open_disk(_config(made), create=False)
    assert not disk.fresh
    await disk.store.close()
