"""The table by which a machine's firmware says that its chipset has a watchdog: ACPI's WDAT, for `q35`.

That machine has the chipset's watchdog (TCO of Intel's ICH9) and no table for it; Debian's cloud kernels have the
driver for the table, `wdat_wdt`, and none for the chipset. The layout is Microsoft's "Hardware Watchdog Timers Design
Specification"; the registers are those of the ICH9's data sheet, chapter 13.9. Start with `table`.
"""

from __future__ import annotations

import struct

# Where SeaBIOS puts the power management registers of a q35 (0x600), and the watchdog's in them.
TCO = 0x660
RELOAD, STATUS, CONTROL, COUNT = TCO, TCO + 6, TCO + 8, TCO + 18
COUNT_MASK = 0x3FF
# In CONTROL: the watchdog is halted.
HALTED = 0x800
# In STATUS: it has bitten.
BITTEN = 0x2
# A tick is 0.6 s, and the second expiry in a row resets.
TICK_MS = 1200
COUNT_MIN = 4
# The chipset's general control, at the address that SeaBIOS gives it: a bite resets nothing while this bit is there.
GENERAL = 0xFED1C000 + 0x3410
NO_REBOOT = 0x20
# Instructions, and the flag that keeps the register's other bits.
READ_VALUE, READ_COUNT, WRITE_VALUE, WRITE_COUNT, KEEP = 0, 1, 2, 3, 0x80
ENABLED = 1
# Space, bits, and what is accessed at once.
PORT = (1, 16, 0, 2)
MEMORY = (0, 32, 0, 3)

# Action, instruction, kind and address of a register, value, mask.
ENTRIES = (
    (1, WRITE_VALUE, PORT, RELOAD, 1, COUNT_MASK),  # feed
    (4, READ_COUNT, PORT, RELOAD, 0, COUNT_MASK),  # what is left
    (5, READ_COUNT, PORT, COUNT, 0, COUNT_MASK),
    (6, WRITE_COUNT | KEEP, PORT, COUNT, 0, COUNT_MASK),
    (8, READ_VALUE, PORT, CONTROL, 0, HALTED),  # runs
    (9, WRITE_VALUE | KEEP, PORT, CONTROL, 0, HALTED),
    (10, READ_VALUE, PORT, CONTROL, HALTED, HALTED),  # is halted
    (11, WRITE_VALUE | KEEP, PORT, CONTROL, HALTED, HALTED),
    (17, WRITE_VALUE | KEEP, MEMORY, GENERAL, 0, NO_REBOOT),  # resets when it bites
    (32, READ_VALUE, PORT, STATUS, BITTEN, BITTEN),  # has bitten
    # QEMU's register takes what is written; a chipset's own is cleared by a one.
    (33, WRITE_VALUE | KEEP, PORT, STATUS, 0, BITTEN),
)
# Not a device on PCI.
NO_PCI = (0xFF, 0xFF, 0xFF, 0xFF)


def table() -> bytes:
    """The table behind its ACPI header, which QEMU writes."""
    limits = (TICK_MS, COUNT_MASK, COUNT_MIN, ENABLED, len(ENTRIES))
    head = struct.pack("<IHBBB3xIIIB3xI", 32, *NO_PCI, *limits)
    entries = (
        struct.pack("<BBHBBBBQII", action, how, 0, *kind, register, value, mask)
        for action, how, kind, register, value, mask in ENTRIES
    )
    return head + b"".join(entries)
