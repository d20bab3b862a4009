"""Models: a file mapped, its metadata and tensors by name, values and products without a copy of the blocks.

A view is good as long as its model is open; numpy views hold their model, and closing it under them is refused.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._library import ARGUMENT, ClosedError, Error, FormatError, NotFoundError, TensorInfo, checked, lib, text_of

if TYPE_CHECKING:
    import numpy

# As llama.cpp's gguf-split names them.
_SPLIT_NAME = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class SplitFileError(FormatError):
    """One of several files of a model."""


def open(path: str | os.PathLike[str]) -> Model:  # pylint: disable=redefined-builtin
    """Maps a GGUF file, or the model of an RTS package. Nothing is copied; the file must stay as it is."""
    return Model(path)


class Metadata(Mapping[str, Any]):
    """The keys of a model. Values are read when they are asked for, and kept."""

    def __init__(self, model: Model) -> None:
        self._model = weakref.proxy(model)
        self._read: dict[str, Any] = {}
        self._keys: list[str] | None = None

    def __getitem__(self, key: str) -> Any:
        if key not in self._read:
            if not isinstance(key, str) or "\0" in key:
                raise KeyError(key)
            try:
                text = text_of(lib.neural_metadata, self._model.handle, key.encode())
            except NotFoundError:
                raise KeyError(key) from None
            self._read[key] = json.loads(text)
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        if self._keys is None:
            self._keys = json.loads(text_of(lib.neural_metadata_keys, self._model.handle))
        return iter(self._keys)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<metadata of {len(self)} keys>"


class Model(Mapping[str, "Tensor"]):
    """An open model: a mapping of names to tensors. A context manager; `close` ends it earlier than its last use."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._handle = 0
        # Again by the same thread: the collector may end a view while the lock is held.
        self._lock = threading.RLock()
        self._views = 0
        self.path = os.fspath(path)
        handle = ctypes.c_uint64()
        checked(lib.neural_open(_bytes_of_path(path), ctypes.byref(handle)))
        self._handle = handle.value
        self._count = checked(lib.neural_tensor_count(self._handle))
        self._tensors: dict[str, Tensor] | None = None
        self.metadata = Metadata(self)
        self._refuse_part()

    def _refuse_part(self) -> None:
        """A model in several files has its tensors spread over them; the first may have none at all."""
        parts = self.metadata.get("split.count", 1)
        if isinstance(parts, int) and parts > 1:
            number = self.metadata.get("split.no", 0) + 1
            named = _SPLIT_NAME.search(os.fsdecode(self.path))
            whole = os.fsdecode(self.path)[: named.start()] if named else "model"
            self.close()
            raise SplitFileError(
                f"{os.fsdecode(self.path)}: part {number} of a model in {parts} files; "
                f"join them first: llama-gguf-split --merge {os.path.basename(os.fsdecode(self.path))} {os.path.basename(whole)}.gguf",
                -6,
            )

    @property
    def handle(self) -> int:
        """The library's handle; 0 when closed, which the library refuses."""
        return self._handle

    def close(self) -> None:
        """Unmaps the file; refused while a view of a tensor lives. A second call does nothing."""
        with self._lock:
            if self._views:
                raise BufferError(f"{self._views} views of tensors are in use; drop them before the model is closed")
            handle, self._handle = self._handle, 0
        if handle:
            checked(lib.neural_close(handle))

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # No view lives: each holds the model. Of a model whose opening failed there is nothing to close.
        if getattr(self, "_handle", 0):
            lib.neural_close(self._handle)

    def __getitem__(self, name: str) -> Tensor:
        if not isinstance(name, str) or "\0" in name:
            raise KeyError(name)
        if self._tensors is not None:
            return self._tensors[name]
        try:
            return Tensor(self, checked(lib.neural_tensor_find(self._handle, name.encode())))
        except NotFoundError as error:
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors())

    def __len__(self) -> int:
        return self._count

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, in the file's order."""
        if self._tensors is None:
            found = (Tensor(self, index) for index in range(self._count))
            self._tensors = {tensor.name: tensor for tensor in found}
        return self._tensors

    def __repr__(self) -> str:
        if not self._handle:
            return f"<closed model {os.fsdecode(self.path)!r}>"
        return f"<model {os.fsdecode(self.path)!r}, {self._count} tensors>"

    def _hold(self, view: object) -> None:
        """Counts a view until it is gone."""
        with self._lock:
            if not self._handle:
                raise ClosedError("the model is closed", -2)
            self._views += 1
        # Not at the interpreter's end: the model must not go before a view that something still reads there.
        weakref.finalize(view, _let_go, self).atexit = False


def _let_go(model: Model) -> None:
    with model._lock:  # pylint: disable=protected-access
        model._views -= 1  # pylint: disable=protected-access


class Tensor:
    """One tensor: what its row of the table says, its blocks where they lie, its values, products with it."""

    __slots__ = ("model", "index", "name", "type", "shape", "size", "nbytes", "block_values", "block_bytes", "__weakref__")

    def __init__(self, model: Model, index: int) -> None:
        row = TensorInfo()
        checked(lib.neural_tensor_info(model.handle, index, ctypes.byref(row), ctypes.sizeof(row)))
        #: The open model.
        self.model = model
        #: Its place in the table.
        self.index = index
        self.name = row.name.decode()
        #: ggml's name, as gguf-py has it: "F32", "Q4_1", "Q6_K".
        self.type = row.type_name.decode()
        #: In numpy's order: the row length last.
        self.shape = tuple(reversed(row.shape[: row.dims]))
        #: How many values.
        self.size = int(row.values)
        #: Bytes of the blocks.
        self.nbytes = int(row.bytes)
        #: Values and bytes of one block.
        self.block_values, self.block_bytes = int(row.block_values), int(row.block_bytes)

    def __repr__(self) -> str:
        return f"<tensor {self.name!r} {self.type} {list(self.shape)}>"

    def blocks(self) -> memoryview:
        """The blocks as they lie in the file: read-only bytes, no copy. Keeps the model open as long as it lives."""
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        checked(lib.neural_tensor_view(self.model.handle, self.index, ctypes.byref(data), ctypes.byref(size)))
        array = (ctypes.c_uint8 * size.value).from_address(data.value or 0)
        # The ctypes array is what every view is made of, and so lives as long as the last of them.
        self.model._hold(array)  # pylint: disable=protected-access
        return memoryview(array).cast("B").toreadonly()

    def numpy(self) -> numpy.ndarray:
        """A read-only array over the mapping, no copy: values for F32, F16, F64 and whole numbers, else the blocks as
        uint8 in rows. It may not be aligned in a package without manifest."""
        import numpy as np  # pylint: disable=import-outside-toplevel

        kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
        if self.type in kind:
            return np.frombuffer(self.blocks(), dtype=kind[self.type]).reshape(self.shape)
        row_bytes = self.shape[-1] // self.block_values * self.block_bytes
        return np.frombuffer(self.blocks(), dtype=np.uint8).reshape(*self.shape[:-1], row_bytes)

    def dequantize(self) -> Any:
        """The values as f32, in a new numpy array of this shape; without numpy an array.array of them in a row."""
        try:
            import numpy as np  # pylint: disable=import-outside-toplevel
        except ImportError:
            return self.values()
        out = np.empty(self.shape, dtype=np.float32)
        checked(lib.neural_dequantize(self.model.handle, self.index, out.ctypes.data, self.size))
        return out

    def values(self, count: int | None = None) -> Any:
        """The first values (all without a count) as array.array("f"), in the file's order; needs no numpy."""
        from array import array  # pylint: disable=import-outside-toplevel

        wanted = self.size if count is None else max(0, min(count, self.size))
        out = array("f", bytes(4 * wanted))
        at = out.buffer_info()[0] if wanted else None
        checked(lib.neural_dequantize(self.model.handle, self.index, at, wanted))
        return out

    def matvec(self, x: Any) -> Any:
        """The product with a vector, from where the blocks lie: a numpy array, without numpy an array.array.

        Quantised types multiply as ggml does: the vector is quantised to eight bits first.
        """
        try:
            import numpy as np  # pylint: disable=import-outside-toplevel
        except ImportError:
            return self._matvec_plainly(x)
        vector = np.ascontiguousarray(x, dtype=np.float32)
        if vector.ndim != 1:
            raise Error(f"x has {vector.ndim} dimensions; a vector has 1", ARGUMENT)
        out = np.empty(self.size // self.shape[-1], dtype=np.float32)
        self._multiply(vector.ctypes.data, len(vector), out.ctypes.data, len(out))
        return out

    def _matvec_plainly(self, x: Any) -> Any:
        from array import array  # pylint: disable=import-outside-toplevel

        vector = array("f", x)
        out = array("f", bytes(4 * (self.size // self.shape[-1])))
        self._multiply(vector.buffer_info()[0], len(vector), out.buffer_info()[0], len(out))
        return out

    def _multiply(self, x: int, x_len: int, out: int, out_len: int) -> None:
        checked(lib.neural_matvec(self.model.handle, self.index, x, x_len, out, out_len))


def _bytes_of_path(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("path: a NUL inside")
    return name
