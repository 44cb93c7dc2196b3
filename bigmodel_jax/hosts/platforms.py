"""Which of JAX's backends are worth trying on this machine."""

import importlib.util
import pathlib

import jax

PCI = pathlib.Path('/sys/bus/pci/devices')
GOOGLE = '0x1ae0'  # The vendor of every TPU.
OTHERS = ('jax_cuda12_plugin', 'jax_cuda13_plugin', 'jax_rocm7_plugin')


def without_missing_tpu() -> None:
    """Keeps JAX from starting libtpu where it is installed only to compile for TPUs, as `plan` does.

    Without a TPU, libtpu prints pages of errors before JAX falls back to the CPU. A choice of the user
    (JAX_PLATFORMS) stays, and so does the search for a GPU where JAX's plug-in for one is installed.
    """
    if jax.config.values['jax_platforms'] or importlib.util.find_spec('libtpu') is None:
        return
    if not has_tpu() and not any(map(importlib.util.find_spec, OTHERS)):
        jax.config.update('jax_platforms', 'cpu')


def has_tpu(devices: pathlib.Path = PCI) -> bool:
    """Whether a TPU is on the bus of this machine."""
    return any(path.read_text().strip() == GOOGLE for path in devices.glob('*/vendor'))
