"""Finds a cargo whose compiler is new enough, and builds the two executables with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .cache import SOURCES, build_folder
from .report import HostError, phase, say

TARGET = "x86_64-unknown-linux-gnu"
# How often a long build says that it is alive.
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Executables:
    """The two files that a package and an initramfs carry."""

    vector_boot: Path
    services: Path

    @staticmethod
    def of(folder: Path) -> Executables:
        """The executables in a folder; refuses a folder without them."""
        found = Executables(folder / "vector_boot", folder / "vb-services")
        for file in (found.vector_boot, found.services):
            if not file.is_file():
                raise HostError(f"executable {file}: not there")
        return found


def _minimum() -> int:
    text = (SOURCES / "Cargo.toml").read_text(encoding="utf-8")
    found = re.search(r'^rust-version = "1\.(\d+)"', text, re.MULTILINE)
    if not found:
        raise HostError("Cargo.toml: no rust-version of the form 1.N")
    return int(found.group(1))


def _find() -> Path:
    """The folder of the first cargo that will do: the user's own, then Debian's."""
    minimum = _minimum()
    seen = []
    for cargo in (shutil.which("cargo"), "/usr/bin/cargo"):
        if not cargo or not Path(cargo).exists():
            continue
        rustc = Path(cargo).parent / "rustc"
        try:
            said = subprocess.run([rustc, "--version"], capture_output=True, text=True, check=True, cwd=SOURCES).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        version = re.match(r"rustc 1\.(\d+)\.", said)
        if version and int(version.group(1)) >= minimum:
            return Path(cargo).parent
        seen.append(said.strip())
    raise HostError(f"no Rust of 1.{minimum} or later (found: {', '.join(seen) or 'none'})")


def environment(tools: Path) -> dict[str, str]:
    """What cargo sees: static executables, and nothing of the caller's own cargo settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CARGO_BUILD", "CARGO_ENCODED"))}
    kept["PATH"] = f"{tools}:{kept.get('PATH', '')}"
    # Static and movable, and no path of this host inside; the same flags as package_rts.sh, so that both share what
    # they build. Only here, never in .cargo/config.toml: cargo would drop the cdylib there.
    cargo_home = os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")
    flags = ["-C", "target-feature=+crt-static", "-C", "relocation-model=pie"]
    flags += [f"--remap-path-prefix={SOURCES}=.", f"--remap-path-prefix={cargo_home}=cargo"]
    kept["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
    kept.pop("RUSTFLAGS", None)
    kept["CARGO_TARGET_DIR"] = str(build_folder())
    return kept


def build(profile: str = "quick") -> Executables:
    """Builds both executables, static, and says how far it is."""
    tools = _find()
    words = [str(tools / "cargo"), "build", "--locked", "--profile", profile, "--target", TARGET]
    words += ["--package", "vector_boot", "--features", "standalone"]
    with phase("build"):
        _run_cargo(words, environment(tools))
    return Executables.of(build_folder() / TARGET / profile)


def _run_cargo(words: list[str], env: dict[str, str]) -> None:
    begun = last = time.monotonic()
    lines: list[str] = []
    done = 0
    with subprocess.Popen(words, cwd=SOURCES, env=env, stderr=subprocess.PIPE, text=True) as cargo:
        assert cargo.stderr is not None
        for line in cargo.stderr:
            lines.append(line)
            verb, _, rest = line.strip().partition(" ")
            if verb not in ("Compiling", "Downloading", "Downloaded", "Updating", "Blocking"):
                continue
            done += verb == "Compiling"
            now = time.monotonic()
            if now - last >= PROGRESS_SECONDS or verb == "Blocking":
                say(f"build: {done} crates, {verb.lower()} {rest}, {now - begun:.0f} s")
                last = now
    if cargo.returncode != 0:
        say("".join(lines[-60:]).rstrip())
        raise HostError("build: cargo failed, see above")
