"""This machine's copy of a storage at a URI.

Objects are written once and whole, in the order in which their files are, at once or in the
background: a process that is lost leaves of its work what it would leave on a disk. A folder goes
up file by file, its manifest last, or else an empty mark; without either it is not there. A large
file that is in the store already is copied there. The store is the truth: a copy may be deleted
whenever no process uses it.
"""

import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from mlflow_setup.errors import ConfigError, StorageError
from mlflow_setup.filesystem.background import Lanes
from mlflow_setup.filesystem.cells import StoreCell, require_conditions
from mlflow_setup.filesystem.lease import LeaseLock
from mlflow_setup.filesystem.manifest import MANIFEST, sha256_file
from mlflow_setup.filesystem.object_store import Entry, ObjectStore
from mlflow_setup.filesystem.paths import inside, is_below, matches
from mlflow_setup.filesystem.storage import TEMPORARY, Lock, Storage

WHOLE, CLAIM = ".whole", ".claim"
LOOK_SECONDS = 2.0
"""Between looks at a flag, which cost a request each."""
WORTH_A_COPY = 1_000_000
"""Bytes from which on a file is not sent twice."""
_AT_ONCE = 64  # requests for objects: a sweep's are many and small, and each waits for its answer
_GOES_UP_SECONDS = 3600.0  # after which a file that is here and not there has been there
_INDEX = ".index.json"
_NEWS = 0.05  # of the index, for which it is written anew


class WorkingCopy(Storage):
    """The storage at `uri`, with the folder `root` of this machine."""

    is_remote = True

    def __init__(self, uri: str, root: Path, store: ObjectStore) -> None:
        self.uri, self.root, self.store = uri.rstrip("/"), root, store
        self._known = self._read_index()  # name -> what lies here of which version
        self._num_new = 0  # of it, since the index was written
        self._fetched: set[str] = set()
        self._sent: dict[str, tuple[str, str]] = {}  # SHA-256 -> the object that has it, its mark
        self._flags: dict[str, bool] = {}
        self._lanes = Lanes()

    def address(self, path: Path) -> str:
        return f"{self.uri}/{self._name(path)}".rstrip("/")

    def in_background(
        self, folder: Path, *, is_lossy: bool = False
    ) -> AbstractContextManager[None]:
        return self._lanes.open(folder, is_lossy=is_lossy)

    def settle(self, folder: Path) -> None:
        self._lanes.wait(folder)

    def is_settled(self, folder: Path) -> bool:
        return self._lanes.are_idle(folder)

    def publish(self, path: Path) -> None:
        if TEMPORARY not in self._name(path):  # it goes up once it has its name
            self._lanes.run(path, self._publish)

    def withdraw(self, path: Path) -> None:
        if TEMPORARY not in self._name(path):
            self._lanes.run(path, self._withdraw)

    def _publish(self, path: Path) -> None:
        if not path.is_dir():
            self._put(path)
            return
        files = sorted(each for each in path.rglob("*") if each.is_file())
        for file in sorted(files, key=lambda each: each == path / MANIFEST):
            self._put(file)
        if path / MANIFEST not in files:
            self.store.put(f"{self._name(path)}/{WHOLE}", b"")
        self._fetched.add(self._name(path))

    def _withdraw(self, path: Path) -> None:
        name = self._name(path)
        below = list(self.store.entries(name))
        marks = [f"{name}/{mark}" for mark in (MANIFEST, WHOLE) if f"{name}/{mark}" in below]
        self.store.delete([name] if not below else marks)
        self.store.delete([each for each in below if each not in marks])
        self._forget(name)

    def pull(self, folder: Path, *patterns: str) -> None:
        self.settle(folder)
        top = self._name(folder)
        entries = self.store.entries(top)
        wanted = {n: entries[n] for n in entries if matches(top, n, patterns)}
        for path in filter(Path.is_file, list(folder.rglob("*"))):
            name = self._name(path)
            with suppress(FileNotFoundError):  # removed by who wrote it
                if name not in entries and matches(top, name, patterns):
                    self._drop_past(path)
        self._bring(wanted)
        if not entries:
            shutil.rmtree(folder, ignore_errors=True)  # all was removed

    def pull_file(self, path: Path) -> None:
        self.settle(path)
        name = self._name(path)
        entry = self.store.entry(name)
        if entry is None:
            path.unlink(missing_ok=True)
            self._known.pop(name, None)
        else:
            self._bring({name: entry})

    def fetch(self, folder: Path) -> None:
        self.settle(folder)
        top = self._name(folder)
        if top in self._fetched and folder.is_dir():
            return
        entries = self.store.entries(top)
        if f"{top}/{MANIFEST}" in entries or f"{top}/{WHOLE}" in entries:
            entries.pop(f"{top}/{WHOLE}", None)
            self._bring(entries)
            self._fetched.add(top)

    def num_bytes(self, path: Path) -> int:
        return sum(entry.num_bytes for entry in self.store.entries(self._name(path)).values())

    def names(self, folder: Path) -> list[str]:
        return self.store.folders(self._name(folder))

    def begin(self, folder: Path) -> None:
        self.store.be_patient()
        files = filter(Path.is_file, folder.rglob("*"))
        if not all(self._is_as_known(self._name(file)) for file in files):
            self.end(folder)
        self._fetched.clear()  # all of it is asked for again

    def end(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._forget(self._name(folder))

    def claim(self, folder: Path) -> None:
        name = self._name(folder)
        claim = StoreCell(self.store, f"{name}/{CLAIM}")
        if set(self.store.entries(name)) - {claim.name} or not claim.swap(None, uuid.uuid4().hex):
            raise FileExistsError(self.address(folder))
        self.store.be_patient()
        self.end(folder)
        folder.mkdir(mode=0o700)

    def give_back(self, folder: Path) -> None:
        name = self._name(folder)
        if set(self.store.entries(name)) == {f"{name}/{CLAIM}"}:
            self.withdraw(folder)

    def cell(self, path: Path) -> "StoreCell":
        return StoreCell(self.store, self._name(path))

    def lock(self, path: Path) -> Lock:
        return LeaseLock(path)

    def database(self, folder: Path) -> Path:
        raise ConfigError(
            f"--storage {self.address(folder)}: no database can lie in an object store",
            fix="--tracking-uri, or MLFLOW_TRACKING_URI, names an MLflow server",
        )

    def probe(self) -> None:
        require_conditions(self.store)

    def raise_flag(self, path: Path) -> None:
        self.store.put(self._name(path), b"")

    def lower_flag(self, path: Path) -> None:
        self.store.delete([self._name(path)])
        path.unlink(missing_ok=True)
        self._flags.pop(self._name(path), None)

    def is_raised(self, path: Path) -> bool:
        name = self._name(path)
        if name not in self._flags:
            self._flags[name] = False
            threading.Thread(target=self._watch, args=(name,), name="flag", daemon=True).start()
        return self._flags.get(name, False)

    def _watch(self, name: str) -> None:
        while name in self._flags:
            with suppress(OSError):  # it is looked for again
                is_there = self.store.entry(name) is not None
                if name in self._flags:
                    self._flags[name] = is_there
            time.sleep(LOOK_SECONDS)

    def _put(self, file: Path) -> None:
        name, before = self._name(file), file.stat()
        if before.st_size < WORTH_A_COPY:
            mark = self.store.put(name, file)
        else:
            digest = sha256_file(file)
            mark = self._copied(name, digest) or self.store.put(name, file)
            self._sent[digest] = (name, mark)
        self._known[name] = (mark, before.st_size, before.st_mtime_ns)

    def _copied(self, name: str, digest: str) -> str | None:
        """The mark of a copy of what was sent before, if it is there still, and can be copied."""
        source, mark = self._sent.get(digest, (name, ""))
        with suppress(StorageError):  # it is sent again
            return None if source == name else self.store.copy(source, name, mark)
        return None

    def _bring(self, wanted: Mapping[str, Entry]) -> None:
        """Raises IntegrityError where a name leads out of the copy."""
        new = {name: entry for name, entry in wanted.items() if not self._has(name, entry)}
        if not new:
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for name, known in pool.map(self._download, new, new.values()):
                if known is not None:
                    self._known[name] = known
        self._num_new += len(new)
        if self._num_new > _NEWS * len(self._known):
            self._write_index()
            self._num_new = 0

    def _drop_past(self, path: Path) -> None:
        """A file that is not in the store goes, unless another process has just written it; with
        its manifest all of a folder."""
        known = self._known.pop(self._name(path), None)
        if known is None and time.time() - path.stat().st_mtime <= _GOES_UP_SECONDS:
            return
        path.unlink()
        if path.name == MANIFEST:
            self.end(path.parent)

    def _has(self, name: str, entry: Entry) -> bool:
        known = self._known.get(name)
        return known is not None and known[0] == entry.mark and self._is_as_known(name)

    def _is_as_known(self, name: str) -> bool:
        """Whether what lies here is what was brought here, or has gone up."""
        known = self._known.get(name)
        with suppress(OSError):
            stat = (self.root / name).stat()
            return known is not None and (stat.st_size, stat.st_mtime_ns) == known[1:]
        return False

    def _download(self, name: str, entry: Entry) -> tuple[str, tuple[str, int, int] | None]:
        """None: it has been withdrawn meanwhile."""
        target = inside(self.root, name)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
        os.close(handle)
        try:
            mark = self.store.download(name, Path(temporary))
            if mark is None:
                return name, None
            written = int(entry.modified.timestamp() * 1e9)
            os.utime(temporary, ns=(written, written))  # when it was written tells its age
            stat = Path(temporary).stat()
            Path(temporary).replace(target)
        finally:
            with suppress(OSError):
                Path(temporary).unlink()
        return name, (mark, stat.st_size, stat.st_mtime_ns)

    def _forget(self, top: str) -> None:
        for name in [n for n in list(self._known) if n == top or is_below(top, n)]:
            self._known.pop(name, None)
        self._fetched = {
            each for each in list(self._fetched) if each != top and not is_below(top, each)
        }

    def _name(self, path: Path) -> str:
        name = path.absolute().relative_to(self.root).as_posix()
        return "" if name == "." else name

    def _read_index(self) -> dict[str, tuple[str, int, int]]:
        try:
            index = json.loads((self.root / _INDEX).read_text(encoding="utf-8"))
            return {str(name): (str(m), int(size), int(at)) for name, (m, size, at) in index}
        except (OSError, ValueError, TypeError):
            return {}

    def _write_index(self) -> None:
        """So that the next process need not ask for what lies here."""
        with suppress(OSError):
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=self.root)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(list(self._known.items()), stream)
            Path(name).replace(self.root / _INDEX)
