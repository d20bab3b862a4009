"""Finds a compiler that is new enough and knows the architecture, and builds the two executables with it.

The one place that knows how a machine's executables are built; `package_rts.sh` calls `main`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import architecture
from .architecture import Architecture
from .cache import SOURCES, build_folder
from .report import HostError, phase, say

# elf(5): e_ident, e_type and e_machine.
ELF_BYTES = 20
# How often a long build says that it is alive.
PROGRESS_SECONDS = 5.0
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Executables:
    """The two files that a package and an initramfs carry."""

    vector_boot: Path
    services: Path

    @staticmethod
    def of(folder: Path, arch: Architecture) -> Executables:
        """The executables in a folder; refuses a folder without them, or with those of another architecture."""
        found = Executables(folder / "vector_boot", folder / "vb-services")
        for file in (found.vector_boot, found.services):
            try:
                with open(file, "rb") as opened:
                    begin = opened.read(ELF_BYTES)
            except OSError as error:
                raise HostError(f"executable {file}: {error.strerror}") from None
            machine = int.from_bytes(begin[18:20], "little")
            if begin[:4] != b"\x7fELF" or machine != arch.elf_machine:
                raise HostError(f"executable {file}: ELF machine {machine}, {arch.elf_machine} ({arch.name}) expected")
        return found


@dataclass(frozen=True)
class Tools:
    """A cargo and the compiler that it is to use."""

    cargo: Path
    rustc: Path

    @staticmethod
    def on_this_host() -> Iterator[Tools]:
        """The user's own, then Debian's, then the user's cargo with Debian's compiler, which knows more targets."""
        own = shutil.which("cargo")
        if own:
            yield Tools(Path(own), Path(own).parent / "rustc")
        yield Tools(Path("/usr/bin/cargo"), Path("/usr/bin/rustc"))
        if own:
            yield Tools(Path(own), Path("/usr/bin/rustc"))

    def lacks(self, minimum: int, target: str) -> str | None:
        """What keeps these from building for a target."""
        for program in (self.cargo, self.rustc):
            said = _ask([program, "--version"])
            version = re.match(r"\w+ 1\.(\d+)\.", said)
            if not version or int(version.group(1)) < minimum:
                return said or f"no {program}"
        library = _ask([self.rustc, "--print", "target-libdir", "--target", target])
        if not any(Path(library).glob("libstd-*.rlib")):
            return f"{_ask([self.rustc, '--version'])} without {target}"
        return None


def _ask(words: list[str | Path]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, cwd=SOURCES).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _minimum() -> int:
    text = (SOURCES / "Cargo.toml").read_text(encoding="utf-8")
    found = re.search(r'^rust-version = "1\.(\d+)"', text, re.MULTILINE)
    if not found:
        raise HostError("Cargo.toml: no rust-version of the form 1.N")
    return int(found.group(1))


def find(target: str) -> Tools:
    """The first tools on this host that can build for a target."""
    minimum = _minimum()
    seen = []
    for tools in Tools.on_this_host():
        lacking = tools.lacks(minimum, target)
        if not lacking:
            return tools
        if lacking not in seen:
            seen.append(lacking)
    raise HostError(
        f"no Rust of 1.{minimum} or later for {target} (found: {'; '.join(seen)}); "
        f"rustup users run once: rustup target add {target}"
    )


def environment(tools: Tools, arch: Architecture) -> dict[str, str]:
    """What cargo sees: static executables, and nothing of the caller's own cargo settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CARGO_BUILD", "CARGO_ENCODED"))}
    kept["PATH"] = f"{tools.cargo.parent}:{kept.get('PATH', '')}"
    # Static and movable, which vector_boot/build.rs takes back for PID 1, and no path of this host inside. Only here,
    # never in .cargo/config.toml: cargo would drop the cdylib there.
    cargo_home = os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")
    flags = ["-C", "target-feature=+crt-static", "-C", "relocation-model=pie"]
    flags += [f"--remap-path-prefix={SOURCES}=.", f"--remap-path-prefix={cargo_home}=cargo"]
    kept["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
    for unwanted in ("RUSTFLAGS", "RUSTC"):
        kept.pop(unwanted, None)
    if tools.rustc.parent != tools.cargo.parent:
        kept["RUSTC"] = str(tools.rustc)
    kept.update(arch.linker_settings(architecture.host()))
    kept["CARGO_TARGET_DIR"] = str(build_folder())
    # The floor of the machine's clock. By the day: each commit would build anew otherwise.
    commit = _ask(["git", "log", "-1", "--format=%ct"])
    if commit.isdigit():
        kept.setdefault("SOURCE_DATE_EPOCH", str(int(commit) // DAY_SECONDS * DAY_SECONDS))
    return kept


def build(arch: Architecture, profile: str = "quick") -> Executables:
    """Builds both executables, static, and says how far it is.

    All architectures and compilers share one folder: cargo keeps their outputs apart by target and by the compiler's
    version.
    """
    tools = find(arch.target)
    words = [str(tools.cargo), "build", "--locked", "--profile", profile, "--target", arch.target]
    # Without the C ABI, whose matrix products bring unsafe code and a tree of crates that no executable needs.
    words += ["--package", "vector_boot", "--no-default-features", "--features", "standalone", "--bins"]
    with phase(f"build {arch.name}"):
        _run_cargo(words, environment(tools, arch))
    return Executables.of(build_folder() / arch.target / profile, arch)


def host_tool() -> Path:
    """A `vector_boot` that runs here, to pack and to make archives with."""
    return build(architecture.host()).vector_boot


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


def main() -> int:
    """Builds for `--arch` in `--profile`, and prints the folder of the executables."""
    parser = argparse.ArgumentParser(prog="python3 -m machine.toolchain")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--profile", required=True)
    args = parser.parse_args()
    try:
        print(build(architecture.named(args.arch), args.profile).vector_boot.parent)
    except HostError as error:
        say(f"build: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
