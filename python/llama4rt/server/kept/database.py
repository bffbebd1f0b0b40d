"""Database: responses, conversations and their items in one SQLite file, bounded and expiring.

A holder is a response or a conversation; its body is the JSON that a client sees. An item belongs to all holders whose
context it is part of and goes with the last of them, so a long chain keeps each text and picture once. Nothing here
knows what a body or an item means. Used by one thread; other processes may have the same file open.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llama4rt.errors import ConfigError, Llama4RTError

log = logging.getLogger("llama4rt.server")

_FILE = "responses-v1.sqlite3"  # a change of the tables is another name
_TABLES = """
CREATE TABLE IF NOT EXISTS holders (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, expires REAL NOT NULL,
    body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS holders_by_age ON holders (expires);
CREATE TABLE IF NOT EXISTS items (row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS uses (
    holder INTEGER NOT NULL, position INTEGER NOT NULL, item INTEGER NOT NULL, output INTEGER NOT NULL,
    PRIMARY KEY (holder, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uses_by_item ON uses (item);
"""
_PROBES = (
    "SELECT row, id, owner, expires, body FROM holders LIMIT 1",
    "SELECT row, id, data FROM items LIMIT 1",
    "SELECT holder, position, item, output FROM uses LIMIT 1",
)
_BUSY_SECONDS = 5.0  # how long another process may hold the file
_EXPIRED_AT_ONCE = 100  # that a write clears away

_T = TypeVar("_T")


class StoreError(Llama4RTError):
    """The file cannot be read or written now: a full disk, somebody who holds it."""


class _TooLargeError(Exception):
    """What is to be kept is larger than all that may be kept."""


@dataclass(frozen=True)
class Item:
    id: str
    data: str  # JSON
    row: int | None = None  # where it is kept already


class Database:
    def __init__(
        self, directory: Path, *, max_bytes: int, max_count: int, clock: Callable[[], float] = time.time
    ) -> None:
        """max_bytes: of the file. max_count: responses and conversations. ConfigError where nothing can be kept."""
        self.path = directory / _FILE
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._run(lambda db: None)
        except (OSError, StoreError) as error:
            raise ConfigError(f"{self.path}: no place for responses: {error}") from None

    # --- reading --------------------------------------------------------------------------------------------

    def body(self, owner: str, id: str) -> str | None:
        """None: there is no such thing, for this owner, any more."""

        def read(db: sqlite3.Connection) -> str | None:
            found = self._holder(db, owner, id)
            return None if found is None else str(found[1])

        return self._run(read)

    def context(self, owner: str, id: str, *, outputs: bool) -> list[Item] | None:
        """What a holder's model was given, in order, and with `outputs` what it said."""

        def read(db: sqlite3.Connection) -> list[Item] | None:
            found = self._holder(db, owner, id)
            if found is None:
                return None
            rows = db.execute(
                "SELECT items.id, items.data, items.row FROM uses JOIN items ON items.row = uses.item "
                "WHERE uses.holder = ? AND uses.output <= ? ORDER BY uses.position",
                (found[0], int(outputs)),
            )
            return [Item(*row) for row in rows]

        return self._run(read)

    # --- writing --------------------------------------------------------------------------------------------

    def save(
        self,
        owner: str,
        id: str,
        body: str,
        *,
        seconds: float,
        inputs: Sequence[Item] = (),
        outputs: Sequence[Item] = (),
    ) -> bool:
        """Keeps a new holder for so long. False: it alone is larger than all that may be kept."""

        def write(db: sqlite3.Connection) -> bool:
            cursor = db.execute(
                "INSERT INTO holders (id, owner, expires, body) VALUES (?, ?, ?, ?)",
                (id, owner, self._clock() + seconds, body),
            )
            assert cursor.lastrowid is not None
            self._append(db, cursor.lastrowid, inputs, output=False)
            self._append(db, cursor.lastrowid, outputs, output=True)
            self._make_room(db, cursor.lastrowid)
            return True

        try:
            return self._run(write)
        except _TooLargeError:
            return False

    def append(self, owner: str, id: str, items: Sequence[Item], *, seconds: float) -> bool:
        """Adds items to a holder, which lives on for so long. False: there is none, or no room."""

        def write(db: sqlite3.Connection) -> bool:
            found = self._holder(db, owner, id)
            if found is None:
                return False
            db.execute("UPDATE holders SET expires = ? WHERE row = ?", (self._clock() + seconds, found[0]))
            self._append(db, found[0], items, output=False)
            self._make_room(db, found[0])
            return True

        try:
            return self._run(write)
        except _TooLargeError:
            return False

    def update(self, owner: str, id: str, body: str) -> bool:
        def write(db: sqlite3.Connection) -> bool:
            found = self._holder(db, owner, id)
            if found is not None:
                db.execute("UPDATE holders SET body = ? WHERE row = ?", (body, found[0]))
            return found is not None

        return self._run(write)

    def delete(self, owner: str, id: str) -> bool:
        def write(db: sqlite3.Connection) -> bool:
            found = self._holder(db, owner, id)
            if found is not None:
                _drop(db, found[0])
            return found is not None

        return self._run(write)

    def delete_item(self, owner: str, id: str, item: str) -> bool:
        def write(db: sqlite3.Connection) -> bool:
            found = self._holder(db, owner, id)
            row = (
                found
                and db.execute(
                    "SELECT items.row FROM uses JOIN items ON items.row = uses.item "
                    "WHERE uses.holder = ? AND items.id = ?",
                    (found[0], item),
                ).fetchone()
            )
            if not found or not row:
                return False
            db.execute("DELETE FROM uses WHERE holder = ? AND item = ?", (found[0], row[0]))
            db.execute(
                "DELETE FROM items WHERE row = ? AND NOT EXISTS (SELECT 1 FROM uses WHERE item = items.row)",
                (row[0],),
            )
            return True

        return self._run(write)

    def close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    # --- inside ---------------------------------------------------------------------------------------------

    def _holder(self, db: sqlite3.Connection, owner: str, id: str) -> tuple[int, str] | None:
        found: tuple[int, str] | None = db.execute(
            "SELECT row, body FROM holders WHERE id = ? AND owner = ? AND expires > ?",
            (id, owner, self._clock()),
        ).fetchone()
        return found

    def _append(self, db: sqlite3.Connection, holder: int, items: Sequence[Item], *, output: bool) -> None:
        (position,) = db.execute(
            "SELECT coalesce(max(position) + 1, 0) FROM uses WHERE holder = ?", (holder,)
        ).fetchone()
        for i, item in enumerate(items, position):
            row = item.row
            # It may have gone since it was read, and another file may have come: then its place is another's.
            if row is not None:
                kept = db.execute("SELECT 1 FROM items WHERE row = ? AND id = ?", (row, item.id)).fetchone()
                row = row if kept else None
            if row is None:
                cursor = db.execute("INSERT INTO items (id, data) VALUES (?, ?)", (item.id, item.data))
                row = cursor.lastrowid
            db.execute("INSERT INTO uses VALUES (?, ?, ?, ?)", (holder, i, row, int(output)))

    def _make_room(self, db: sqlite3.Connection, newest: int) -> None:
        """What has expired goes, then what would be the next to expire."""
        expired = db.execute(
            "SELECT row FROM holders WHERE expires <= ? AND row <> ? LIMIT ?",
            (self._clock(), newest, _EXPIRED_AT_ONCE),
        ).fetchall()
        for (row,) in expired:
            _drop(db, row)
        while self._used(db) > self._max_bytes or self._count(db) > self._max_count:
            oldest = db.execute(
                "SELECT row FROM holders WHERE row <> ? ORDER BY expires, row LIMIT 1", (newest,)
            ).fetchone()
            if oldest is None:
                raise _TooLargeError
            _drop(db, oldest[0])

    @staticmethod
    def _used(db: sqlite3.Connection) -> int:
        """Bytes of the file without pages that are free again."""
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @staticmethod
    def _count(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT count(*) FROM holders").fetchone()[0])

    def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """In one transaction. A damaged file is put aside, and the work is done on a new one."""
        for tries_left in (1, 0):
            try:
                return self._once(work)
            except sqlite3.OperationalError as error:
                raise StoreError(f"{self.path.name}: {error}") from error
            except sqlite3.DatabaseError as error:
                if not tries_left:
                    raise StoreError(f"{self.path.name}: {error}") from error
                self._put_aside(error)
        raise AssertionError("a run returns or raises")

    def _once(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._db is None:
            self._db = self._opened()
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            result = work(db)
            db.execute("COMMIT")
            return result
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def _opened(self) -> sqlite3.Connection:
        """sqlite3.DatabaseError, no OperationalError, where it is no file of ours or is damaged."""
        db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(
                "PRAGMA synchronous = NORMAL"
            )  # a power cut may cost the last responses, never the file
            db.execute("PRAGMA secure_delete = ON")  # what was deleted can be read by nobody
            db.execute(f"PRAGMA journal_size_limit = {4 << 20}")
            state = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if state != "ok":
                raise sqlite3.DatabaseError(str(state))
            db.executescript(_TABLES)
            try:
                for probe in _PROBES:
                    db.execute(probe).fetchall()
            except sqlite3.OperationalError as error:
                raise sqlite3.DatabaseError(str(error)) from None
        except BaseException:
            db.close()
            raise
        return db

    def _put_aside(self, error: sqlite3.DatabaseError) -> None:
        self.close()
        aside = self.path.with_name(f"{_FILE}.damaged-{int(time.time())}-{os.getpid()}")
        log.error("%s is damaged (%s): put aside as %s; responses begin anew", self.path, error, aside.name)
        try:
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(_FILE + suffix)
                if part.exists():
                    os.replace(part, aside.with_name(aside.name + suffix))
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as problem:
            raise StoreError(f"{self.path.name}: {problem.strerror or problem}") from None


def _drop(db: sqlite3.Connection, holder: int) -> None:
    db.execute(
        "DELETE FROM items WHERE row IN (SELECT item FROM uses WHERE holder = ?) AND NOT EXISTS "
        "(SELECT 1 FROM uses WHERE item = items.row AND holder <> ?)",
        (holder, holder),
    )
    db.execute("DELETE FROM uses WHERE holder = ?", (holder,))
    db.execute("DELETE FROM holders WHERE row = ?", (holder,))
