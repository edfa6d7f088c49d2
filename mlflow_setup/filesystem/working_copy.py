"""The local working copy of a storage at a URI.

Objects are written once and atomically, in the order in which their files were written, at once or
in the background: a process that dies leaves in the store what it would have left on a disk. A
folder is uploaded file by file, and its manifest last, or an empty marker object if it has none;
without either it counts as missing. A large file that the store has already is copied there, not
uploaded again. The store is authoritative: a working copy may be deleted while no process uses it.
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
from mlflow_setup.filesystem.cells import StoreCell, require_conditional_writes
from mlflow_setup.filesystem.lease import LeaseLock
from mlflow_setup.filesystem.manifest import MANIFEST, sha256_file
from mlflow_setup.filesystem.object_store import Entry, ObjectStore
from mlflow_setup.filesystem.paths import inside, is_below, matches
from mlflow_setup.filesystem.storage import TEMPORARY, Lock, Storage

WHOLE, CLAIM = ".whole", ".claim"
FLAG_POLL_SECONDS = 2.0
"""How often a flag is looked up, which is a request each time."""
MIN_COPY_BYTES = 1_000_000
"""The size from which a file that the store has already is copied there, not uploaded again."""
_NUM_DOWNLOADS = 64  # at a time: a sweep's objects are many and small, so latency dominates
_MAX_UPLOAD_SECONDS = 3600.0  # a file older than this that is not in the store was deleted there
_INDEX = ".index.json"
_MIN_INDEX_CHANGE = 0.05  # share of new entries from which the index is written again


class WorkingCopy(Storage):
    """The storage at `uri`, with the local folder `root` as its working copy."""

    is_remote = True

    def __init__(self, uri: str, root: Path, store: ObjectStore) -> None:
        self.uri, self.root, self.store = uri.rstrip("/"), root, store
        self._known = self._read_index()  # name -> version mark, local size and time of change
        self._num_new = 0  # entries of it since the index was written
        self._fetched: set[str] = set()
        self._sent: dict[str, tuple[str, str]] = {}  # SHA-256 -> object with this content, its mark
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
        if TEMPORARY not in self._name(path):  # it is uploaded once it has its final name
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
            with suppress(FileNotFoundError):  # removed by the process that wrote it
                if name not in entries and matches(top, name, patterns):
                    self._remove_withdrawn(path)
        self._download_changed(wanted)
        if not entries:
            shutil.rmtree(folder, ignore_errors=True)

    def pull_file(self, path: Path) -> None:
        self.settle(path)
        name = self._name(path)
        entry = self.store.entry(name)
        if entry is None:
            path.unlink(missing_ok=True)
            self._known.pop(name, None)
        else:
            self._download_changed({name: entry})

    def fetch(self, folder: Path) -> None:
        self.settle(folder)
        top = self._name(folder)
        if top in self._fetched and folder.is_dir():
            return
        entries = self.store.entries(top)
        if f"{top}/{MANIFEST}" in entries or f"{top}/{WHOLE}" in entries:
            entries.pop(f"{top}/{WHOLE}", None)
            self._download_changed(entries)
            self._fetched.add(top)

    def num_bytes(self, path: Path) -> int:
        return sum(entry.num_bytes for entry in self.store.entries(self._name(path)).values())

    def names(self, folder: Path) -> list[str]:
        return self.store.folders(self._name(folder))

    def begin(self, folder: Path) -> None:
        self.store.retry_longer()
        files = filter(Path.is_file, folder.rglob("*"))
        if not all(self._is_unchanged(self._name(file)) for file in files):
            self.end(folder)
        self._fetched.clear()

    def end(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._forget(self._name(folder))

    def claim(self, folder: Path) -> None:
        name = self._name(folder)
        claim = StoreCell(self.store, f"{name}/{CLAIM}")
        if set(self.store.entries(name)) - {claim.name} or not claim.swap(None, uuid.uuid4().hex):
            raise FileExistsError(self.address(folder))
        self.store.retry_longer()
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
            f"--storage {self.address(folder)}: MLflow's database cannot be in an object store",
            fix="name an MLflow server by --tracking-uri or MLFLOW_TRACKING_URI",
        )

    def probe(self) -> None:
        require_conditional_writes(self.store)

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
            with suppress(OSError):  # retried at the next poll
                is_there = self.store.entry(name) is not None
                if name in self._flags:
                    self._flags[name] = is_there
            time.sleep(FLAG_POLL_SECONDS)

    def _put(self, file: Path) -> None:
        name, before = self._name(file), file.stat()
        if before.st_size < MIN_COPY_BYTES:
            mark = self.store.put(name, file)
        else:
            digest = sha256_file(file)
            mark = self._copy_in_store(name, digest) or self.store.put(name, file)
            self._sent[digest] = (name, mark)
        self._known[name] = (mark, before.st_size, before.st_mtime_ns)

    def _copy_in_store(self, name: str, digest: str) -> str | None:
        """Copy an uploaded object with the same content to `name`. Return the copy's version mark;
        None if there is no such object any more, or it cannot be copied."""
        source, mark = self._sent.get(digest, (name, ""))
        with suppress(StorageError):  # the file is uploaded instead
            return None if source == name else self.store.copy(source, name, mark)
        return None

    def _download_changed(self, wanted: Mapping[str, Entry]) -> None:
        """Download those of the entries that the working copy lacks, or has in another version.
        Raises IntegrityError where a name leads out of the working copy."""
        new = {name: entry for name, entry in wanted.items() if not self._has(name, entry)}
        if not new:
            return
        with ThreadPoolExecutor(_NUM_DOWNLOADS) as pool:
            for name, known in pool.map(self._download, new, new.values()):
                if known is not None:
                    self._known[name] = known
        self._num_new += len(new)
        if self._num_new > _MIN_INDEX_CHANGE * len(self._known):
            self._write_index()
            self._num_new = 0

    def _remove_withdrawn(self, path: Path) -> None:
        """Delete a file that is not in the store, unless another process may still be uploading it.
        Without its manifest a folder is incomplete, so all of it is deleted."""
        known = self._known.pop(self._name(path), None)
        if known is None and time.time() - path.stat().st_mtime <= _MAX_UPLOAD_SECONDS:
            return
        path.unlink()
        if path.name == MANIFEST:
            self.end(path.parent)

    def _has(self, name: str, entry: Entry) -> bool:
        known = self._known.get(name)
        return known is not None and known[0] == entry.mark and self._is_unchanged(name)

    def _is_unchanged(self, name: str) -> bool:
        """Whether the local file is as it was when it was downloaded or uploaded."""
        known = self._known.get(name)
        with suppress(OSError):
            stat = (self.root / name).stat()
            return known is not None and (stat.st_size, stat.st_mtime_ns) == known[1:]
        return False

    def _download(self, name: str, entry: Entry) -> tuple[str, tuple[str, int, int] | None]:
        """The object's name and its entry for `_known`; None if it has been deleted meanwhile."""
        target = inside(self.root, name)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
        os.close(handle)
        try:
            mark = self.store.download(name, Path(temporary))
            if mark is None:
                return name, None
            written = int(entry.modified.timestamp() * 1e9)
            os.utime(temporary, ns=(written, written))  # so that the file's age is the object's
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
        """Save `_known`, so that the next process does not download the same files again."""
        with suppress(OSError):
            handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=self.root)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(list(self._known.items()), stream)
            Path(name).replace(self.root / _INDEX)
