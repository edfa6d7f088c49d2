"""Thirty files that execute code if an unsafe reader reads them."""

import gzip
import io
import json
import marshal
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.numpy import save

MARKER = "executed"


class Bomb:
    """An object that calls a function when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


BOMB = Bomb(os.mkdir, MARKER)


CODE = f"__import__('os').mkdir('{MARKER}')"


def written(write: Callable[[Any], object]) -> bytes:
    """The bytes that `write` writes into a stream."""
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def parquet(metadata: dict[str, str | bytes]) -> bytes:
    table = pa.table({"id": ["a"], "score": np.zeros(1, np.float32)})
    return written(lambda stream: pq.write_table(table.replace_schema_metadata(metadata), stream))


def parquet_with_extension() -> bytes:
    """A Parquet file with a column type that older readers unpickle."""
    field = pa.field(
        "score",
        pa.float32(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(BOMB),
        },
    )
    table = pa.table([pa.array([0.0], pa.float32())], schema=pa.schema([field]))
    return written(lambda stream: pq.write_table(table, stream))


def zip_slip() -> bytes:
    def write(stream: io.BytesIO) -> None:
        torch.save(BOMB, stream)
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr(f"../../{MARKER}/file", "x")

    return written(write)


def tar_slip() -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(f"../{MARKER}/file"))
            member = tarfile.TarInfo("pickle")
            content = pickle.dumps(BOMB)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    return written(write)


def npy_header() -> bytes:
    """A .npy file whose header is an expression to evaluate."""
    header = f"{{'descr': {CODE}, 'fortran_order': False, 'shape': (1,)}}".ljust(118).encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def safetensors_header(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


OBJECTS = np.array([BOMB], dtype=object)


PAYLOADS: dict[str, bytes] = {
    **{f"pickle {protocol}": pickle.dumps(BOMB, protocol=protocol) for protocol in range(6)},
    "pickle exec": pickle.dumps(Bomb(exec, f"import os; os.mkdir('{MARKER}')")),
    "pickle eval": pickle.dumps(Bomb(eval, CODE)),
    "pickle system": pickle.dumps(Bomb(os.system, f"mkdir {MARKER}")),
    "pickle nested": pickle.dumps({"step": 2, "model": [{"weight": BOMB}]}),
    "joblib zlib": zlib.compress(pickle.dumps(BOMB)),
    "joblib gzip": gzip.compress(pickle.dumps(BOMB)),
    "torch zip": written(lambda stream: torch.save({"model": BOMB}, stream)),
    "torch legacy": written(
        lambda stream: torch.save({"m": BOMB}, stream, _use_new_zipfile_serialization=False)
    ),
    "torch tensor and bomb": written(
        lambda stream: torch.save([torch.zeros(3), Bomb(exec, CODE)], stream)
    ),
    "zip slip": zip_slip(),
    "tar slip": tar_slip(),
    "npy objects": written(lambda stream: np.save(stream, OBJECTS, allow_pickle=True)),
    "npz objects": written(lambda stream: np.savez(stream, flat=OBJECTS, offsets=OBJECTS)),
    "npy header": npy_header(),
    "marshal": marshal.dumps(compile(CODE, "", "eval")),
    "yaml apply": f"!!python/object/apply:os.mkdir [{MARKER}]".encode(),
    "yaml new": f"seed: !!python/object/new:os.mkdir [{MARKER}]".encode(),
    "yaml eval": f'optim: {{lr: !!python/object/apply:eval ["{CODE}"]}}'.encode(),
    "yaml full tag": f"- !<tag:yaml.org,2002:python/object/apply:os.mkdir> [{MARKER}]".encode(),
    "yaml tag directive": f"%TAG ! tag:yaml.org,2002:python/\n---\n!object/apply:os.mkdir "
    f"[{MARKER}]".encode(),
    "yaml module": b"seed: !!python/module:this",
    "parquet extension": parquet_with_extension(),
    "parquet header": parquet({"ensweep": pickle.dumps(BOMB), "pandas": pickle.dumps(BOMB)}),
    "safetensors pickle": safetensors_header(pickle.dumps(BOMB)),
    "safetensors metadata": save(
        {"flat": np.zeros(1, np.int32)}, metadata={"python": CODE, "__reduce__": CODE}
    ),
    "json reduce": json.dumps(
        {"py/object": "os.mkdir", "py/reduce": [{"py/function": "os.mkdir"}, [MARKER]]}
    ).encode(),
    "json code": json.dumps({"trial": CODE, "config": {"__reduce__": CODE}}).encode(),
    "json without end": b"[" * 100_000,
    "json null": b"null",
    "csv formula": f"id\tsentence\tsentiment\n1\t=cmd|'/c mkdir {MARKER}'!A0\t{CODE}\n".encode(),
    "python": f"import os\nos.mkdir('{MARKER}')\n".encode(),
}


UNSAFE_READERS: dict[str, Callable[[bytes], object]] = {
    "pickle": pickle.loads,
    "joblib zlib": lambda content: pickle.loads(zlib.decompress(content)),
    "joblib gzip": lambda content: pickle.loads(gzip.decompress(content)),
    "torch": lambda content: torch.load(io.BytesIO(content), weights_only=False),
    "npy objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
    "npz objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True)["flat"],
    "marshal": lambda content: eval(marshal.loads(content)),  # noqa: S307
    "yaml apply": yaml.unsafe_load,
    "yaml new": yaml.unsafe_load,
    "yaml eval": yaml.unsafe_load,
    "yaml full": yaml.unsafe_load,
    "yaml tag": yaml.unsafe_load,
    "python": lambda content: exec(content),  # noqa: S102
}
