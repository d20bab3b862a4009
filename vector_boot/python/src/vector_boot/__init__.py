"""Vector Boot from Python: models without a copy, pixel programs, the registers of a machine, evolution.

    model = vector_boot.open("model.gguf")
    model.metadata["general.architecture"]
    model["blk.0.attn_q.weight"].dequantize()
    vector_boot.execute_pixels([(72, 101, 108), (101, 108, 108), (108, 111, 111), (250, 255, 0)])

The package is ctypes over libvector_boot.so, whose version is checked here; docs/python.md is its page.
"""

from __future__ import annotations

from ._library import ABI_VERSION, Error, LibraryError, abi_version
from .machine import Snapshot, journal, registers, snapshot, watch
from .model import Metadata, Model, SplitFileError, Tensor, open  # pylint: disable=redefined-builtin
from .pixels import PixelError, Runtime, Stats, execute_pixels, stats, use_model

__version__ = "0.1.0"
__all__ = [
    "ABI_VERSION",
    "Error",
    "LibraryError",
    "Metadata",
    "Model",
    "PixelError",
    "Runtime",
    "Snapshot",
    "SplitFileError",
    "Stats",
    "Tensor",
    "abi_version",
    "execute_pixels",
    "journal",
    "open",
    "registers",
    "snapshot",
    "stats",
    "use_model",
    "watch",
]
