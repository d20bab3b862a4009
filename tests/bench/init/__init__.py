"""Measures PID 1 beside its peers: each boots the same kernel in QEMU with the same three services.

Instructions are the clock (`-icount`), so a figure repeats from run to run whatever the host does meanwhile.
Owns the archives that are booted and the reading of what their probe says. Never here: formats, which are
`vector_boot`'s and cpio's, and anything that ends up in the product. Start with `run.py`; what happens
inside the machine is in `guest/launch.c`.
"""
