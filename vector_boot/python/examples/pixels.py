"""A pixel program that asks the default policy: registers in, eight controls out, as bytes.

    python examples/pixels.py
"""

from __future__ import annotations

import struct

import vector_boot

OUT, TENSOR, LOAD_F32, MATVEC, STORE_F32 = (250, 255, 0), (251, 0, 0), (251, 1, 2), (251, 2, 0), (251, 4, 2)


def quoted(data: bytes) -> list[tuple[int, ...]]:
    """Any bytes as pixels: each triple quoted, so that no byte is an instruction; what was filled up is dropped."""
    filled = -len(data) % 3
    data += b"\0" * filled
    pixels: list[tuple[int, ...]] = []
    for at in range(0, len(data), 3):
        pixels += [(250, 253, 1), tuple(data[at : at + 3])]
    return [*pixels, (250, 254, filled)]


def layer(name: str, values: list[float]) -> list[float]:
    """The product of a tensor of the default model with these values."""
    program = [
        *quoted(name.encode()),
        TENSOR,
        *quoted(struct.pack(f"<{len(values)}f", *values)),
        LOAD_F32,
        MATVEC,
        STORE_F32,
        OUT,
    ]
    result = vector_boot.execute_pixels(program)
    return list(struct.unpack(f"<{len(result) // 4}f", result))


def main() -> None:
    """Says hello, and runs this host's registers through the first layer of the policy."""
    hello = [(72, 101, 108), (101, 108, 108), (108, 111, 111), OUT]
    print(vector_boot.execute_pixels(hello).decode())
    found = vector_boot.snapshot().registers
    registers = [found.get(name, float("nan")) for name in vector_boot.registers()]
    # Unknown is calm, and large counts are squeezed.
    inputs = [0.0 if value != value else value / (1 + abs(value)) for value in registers]
    hidden = layer("policy.w1", inputs)
    print(f"{len(inputs)} registers in, {len(hidden)} hidden units out, the largest {max(hidden):.3f}")


if __name__ == "__main__":
    main()
