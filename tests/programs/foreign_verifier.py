"""Checks a C2SP tile directory with `aics-tlog`, a verifier that is not ours.

    foreign_verifier.py DIRECTORY VKEY [FIRST]

Opens the checkpoint with the key, authenticates every tile against its root, and checks the inclusion of every entry
from FIRST on. Prints `ok N entries`; or names the first thing that does not hold, an entry by its index, and ends
with 1.
"""

import sys
from pathlib import Path

from aics_tlog import (
    FileSystemTileReader,
    TileMissingError,
    TileVerificationError,
    VerifiedTileReader,
    audit_tiles,
    inclusion_proof_from_tiles,
    parse_note,
    parse_vkey,
    read_entry,
    verify_checkpoint,
    verify_leaf_inclusion,
)


def first_fault(directory: Path, vkey: str, first: int) -> tuple[int, str]:
    """How many entries there are, and what does not hold first."""
    note = parse_note((directory / "checkpoint").read_bytes())
    verified = verify_checkpoint(note, parse_vkey(vkey))
    if not verified.ok:
        return 0, f"checkpoint: {verified.error}"
    size, root = verified.size, verified.root
    copies = FileSystemTileReader(directory)
    try:
        audit_tiles(copies, size, root, entries=False)
    except (TileMissingError, TileVerificationError) as fault:
        return size, str(fault)
    tree = VerifiedTileReader(copies, size, root)
    for index in range(first, size):
        # The copy's bytes, which nothing vouches for but the proof.
        entry = read_entry(copies, index, size)
        proof = inclusion_proof_from_tiles(tree, index, size)
        if not verify_leaf_inclusion(entry, index, size, proof, root):
            return size, f"entry {index}"
    return size, ""


size, fault = first_fault(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
print(f"BAD {fault}" if fault else f"ok {size} entries")
sys.exit(1 if fault else 0)
