"""Boots the appliance in QEMU: builds what is missing, makes the disks, runs the machine, speaks to its console.

Owns everything that happens on the host around a virtual machine. Never here: formats (those are
`vector_boot rts` and `vector_boot initramfs`) or anything about what the machine does inside.
Standard library only. Start with `run.py`.
"""
