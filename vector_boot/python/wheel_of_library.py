"""The build backend (PEP 517): builds libvector_boot.so with cargo and puts it into a wheel beside the Python files.

The wheel fits every Python 3 of this kind of machine: nothing in it is compiled against Python.
Settings, each as `pip install --config-settings NAME=VALUE`:
  profile   cargo's profile, one that unwinds: release (the default) or dev
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sysconfig
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "vector_boot"
LIBRARY = "libvector_boot.so"
# Zip has no time before this; with one time for all files equal inputs give equal wheels.
TIME = (1980, 1, 1, 0, 0, 0)


def build_wheel(wheel_directory: str, config_settings: dict | None = None, metadata_directory: str | None = None) -> str:
    """Writes the wheel and returns its file name."""
    del metadata_directory
    library = _library((config_settings or {}).get("profile", "release"))
    source = HERE / "src"
    files = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in sorted((source / PACKAGE).rglob("*"))
        if path.suffix == ".py" or path.name == "py.typed"
    }
    files[f"{PACKAGE}/{LIBRARY}"] = library.read_bytes()
    project = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    version = _field(project, "version")
    info = f"{PACKAGE}-{version}.dist-info"
    tag = f"py3-none-{re.sub('[-.]', '_', sysconfig.get_platform())}"
    files[f"{info}/METADATA"] = _metadata(project, version).encode()
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {PACKAGE}\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    record = "".join(f"{name},sha256={_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = f"{PACKAGE}-{version}-{tag}.whl"
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            archive.writestr(entry, data)
    return wheel


def build_sdist(sdist_directory: str, config_settings: dict | None = None) -> str:
    """The library's sources are the repository's, of which this folder is a small part."""
    del sdist_directory, config_settings
    raise NotImplementedError("there is no source distribution: install from the repository")


def _library(profile: str) -> Path:
    """Builds the library and finds out where cargo put it."""
    words = [os.environ.get("CARGO", "cargo"), "build", "--locked", "--profile", profile, "--package", PACKAGE, "--lib"]
    try:
        done = subprocess.run(
            [*words, "--message-format", "json-render-diagnostics"],
            cwd=HERE.parents[1],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise SystemExit("vector_boot is built with cargo, which is not installed (see docs/python.md)") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"cargo failed with {error.returncode}; what it said stands above") from error
    for line in done.stdout.splitlines():
        for name in json.loads(line).get("filenames") or []:
            if Path(name).name == LIBRARY:
                return Path(name)
    raise SystemExit(f"cargo built no {LIBRARY}")


def _field(project: str, name: str) -> str:
    """A text of pyproject.toml; tomllib came with Python 3.11 only."""
    found = re.search(rf'^{name} = "(.*)"$', project, re.MULTILINE)
    if found is None:
        raise SystemExit(f"pyproject.toml: no {name}")
    return found.group(1)


def _metadata(project: str, version: str) -> str:
    fields = [
        "Metadata-Version: 2.1",
        f"Name: {PACKAGE}",
        f"Version: {version}",
        f"Summary: {_field(project, 'description')}",
        "License: Apache-2.0 OR MIT",
        f"Requires-Python: {_field(project, 'requires-python')}",
        "Provides-Extra: numpy",
        'Requires-Dist: numpy; extra == "numpy"',
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(fields) + "\n\n" + (HERE / "README.md").read_text(encoding="utf-8")


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
