"""Measured points on disk, so that nothing is measured twice: one SQLite file in the user's cache directory.

Every group of points is one transaction in write-ahead mode: a killed process loses at most what it was measuring, and
two processes may write at once. The store is a cache: whatever goes wrong with the file, measuring goes on without it.
"""

import logging
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from foveate.files import cache_folder

log = logging.getLogger(__name__)

SCHEMA = 3
PATIENCE = 30.0  # seconds to wait for another process that holds the file
TABLES = """
CREATE TABLE IF NOT EXISTS points (
    key TEXT, part TEXT, n INTEGER, m INTEGER, ratio REAL, reference_ms REAL, rounds INTEGER,
    disturbed INTEGER,
    PRIMARY KEY (key, part, n, m)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (key TEXT PRIMARY KEY, written REAL, profile TEXT);
"""
# part, n, m, ratio to the reference, the reference's ms, rounds, and 1 where others worked meanwhile
Row = tuple[str, int, int, float, float, int, int]


class Store:
    """Points and finished profiles by key. A context manager.

    A file that is not a sound database is moved aside; one that cannot be written (or a full disk) is done without, in
    memory. Either is logged as a warning.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path`: the database file; by default `profiles-<schema>.sqlite` in the cache folder."""
        self.path = path
        try:
            self.path = path or cache_folder() / f"profiles-{SCHEMA}.sqlite"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
        except (OSError, RuntimeError, sqlite3.Error) as e:  # RuntimeError: no home directory
            self._db = self._in_memory(e)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def points(self, key: str) -> list[Row]:
        """Everything measured for `key`, in order."""
        columns = "part, n, m, ratio, reference_ms, rounds, disturbed"
        return self._do(f"SELECT {columns} FROM points WHERE key = ? ORDER BY part, n, m", [(key,)])

    def add(self, key: str, rows: Iterable[Row]) -> None:
        """Write points at once, or none of them; a point measured again replaces the older one."""
        self._do("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(key, *row) for row in rows])

    def finished(self, key: str) -> str | None:
        """The profile last written for `key`, or None."""
        rows = self._do("SELECT profile FROM profiles WHERE key = ?", [(key,)])
        return rows[0][0] if rows else None

    def finish(self, key: str, profile: str) -> None:
        self._do("INSERT OR REPLACE INTO profiles VALUES (?, ?, ?)", [(key, time.time(), profile)])

    def clear(self, key: str) -> None:
        """Forget `key`."""
        self._do("DELETE FROM points WHERE key = ?", [(key,)])
        self._do("DELETE FROM profiles WHERE key = ?", [(key,)])

    def _do(self, query: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run `query` once a row, in one transaction; on an error of the file, go on in memory and try there."""
        for _ in range(2):
            try:
                with self._db:  # commits, or rolls back
                    self._db.execute("BEGIN" if query.startswith("SELECT") else "BEGIN IMMEDIATE")
                    return [found for row in rows for found in self._db.execute(query, row).fetchall()]
            except sqlite3.Error as e:
                self._db.close()
                self._db = self._in_memory(e)
        return []

    def _open(self) -> sqlite3.Connection:
        assert self.path is not None
        try:
            return self._patiently_connect()
        except sqlite3.OperationalError:
            raise  # locked, not writable: the file itself may be sound
        except sqlite3.DatabaseError as e:
            aside = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).unlink()
            with suppress(FileNotFoundError):  # another process was faster
                self.path.replace(aside)
            log.warning("%s is not a sound database (%s): moved aside as %s", self.path, e, aside.name)
            return self._connect()

    def _patiently_connect(self) -> sqlite3.Connection:
        """Connect, trying again while others hold the file.

        SQLite waits for locks, but not for those of the first and the last connection, which set up and take away the
        write-ahead log: meeting one of these it says at once that the database is locked.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._connect()
            except sqlite3.OperationalError as e:
                if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def _connect(self) -> sqlite3.Connection:
        assert self.path is not None
        db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            if (said := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(said)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut the last points
            db.executescript(TABLES)
            # A read-only file opens well and fails at the first point: see it now.
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM points WHERE key = ''")
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _in_memory(self, reason: Exception) -> sqlite3.Connection:
        log.warning("profiles are not kept: cannot use %s (%s)", self.path, reason)
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(TABLES)
        return db
