"""The host's memory where the CPU is the device: kept between steps instead of being given back and asked for again."""

import ctypes
import importlib.metadata
import importlib.util
import pathlib
import sys

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
    """Makes this process keep the memory that it frees; returns whether it could.

    XLA:CPU allocates the intermediates of a step anew at each step. malloc(3) takes so large a block from the kernel
    and gives it back, so that every page of it is touched for the first time again: a quarter of a small step's time.
    The price is that the process stays as large as it once was. Call it before JAX starts its threads: later, only
    blocks of up to 64 MiB are kept.

    Where an accelerator is installed, or the C library is not glibc, nothing changes.
    """
    if not sys.platform.startswith('linux') or _has_accelerator():
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'gnu_get_libc_version'):
        return False
    # One arena: the others cannot grow beyond 64 MiB, and take what is larger from the kernel whatever is asked here.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_ARENA_MAX: 1}
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in settings.items())


def _has_accelerator() -> bool:
    """Whether JAX could find a TPU or GPU, without starting it: whether the library for one is installed."""
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    return bool(plugins) or (importlib.util.find_spec('libtpu') is not None and has_tpu())


def has_tpu() -> bool:
    """Whether this machine has a TPU. That libtpu is installed does not say so: it compiles for TPUs anywhere."""
    devices = pathlib.Path('/dev')
    return any(devices.glob('accel[0-9]*')) or any(devices.glob('vfio/[0-9]*'))
