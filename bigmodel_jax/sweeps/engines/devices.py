"""The cores and accelerators of this machine, shared out among the trials that run at the same time."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigmodel_jax import config
from bigmodel_jax.hosts import platforms

# What limits the threads of the libraries beside XLA, which counts the cores that its process may use.
THREAD_LIMITS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
VISIBLE = {'cuda': 'CUDA_VISIBLE_DEVICES', 'rocm': 'HIP_VISIBLE_DEVICES', 'tpu': 'TPU_VISIBLE_CHIPS'}
# How so many chips of a TPU host lie: libtpu wants to be told.
TPU_BOUNDS = {1: '1,1,1', 2: '1,2,1', 4: '2,2,1', 8: '2,4,1'}
# Asked in a process of its own: whoever starts a backend of JAX takes the memory of all accelerators.
PROBE = """\
import json, jax
from bigmodel_jax.hosts import platforms
platforms.without_missing_tpu()
devices = jax.local_devices()
name = devices[0].platform
version = devices[0].client.platform_version.lower()
chips = len({tuple(getattr(device, 'coords', (device.id,))) for device in devices})
kind = 'tpu' if name == 'tpu' else 'cpu' if name == 'cpu' else 'rocm' if 'rocm' in version else 'cuda'
print(json.dumps([kind, chips, len(devices)]))
"""
PROBE_S = 120.0


class Accelerators(NamedTuple):
    """Those of this machine.

    Attributes:
      kind: 'cuda', 'rocm' or 'tpu'; 'cpu' if there are none.
      ids: names of the chips, as the variable in VISIBLE takes them.
      devices: devices of JAX in each chip.
    """

    kind: str
    ids: tuple[str, ...] = ()
    devices: int = 1


class Share(NamedTuple):
    """What one trial gets: numbers of CPU cores (none: no limit), and variables of its environment."""

    cores: tuple[int, ...]
    environment: Mapping[str, str]

    @property
    def is_of_cpu(self) -> bool:
        """Whether it has no accelerator."""
        return not set(VISIBLE.values()) & set(self.environment)


def cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may use; (-1, -1, ...) where the system cannot restrict a process."""
    if hasattr(os, 'sched_getaffinity'):
        return tuple(sorted(os.sched_getaffinity(0)))
    return (-1,) * (os.cpu_count() or 1)


def accelerators() -> Accelerators:
    """Those that JAX would use here.

    Raises:
      InputError: JAX cannot start on them.
    """
    wanted = os.environ.get('JAX_PLATFORMS', '')
    if wanted == 'cpu' or not (platforms.has_tpu() or any(map(importlib.util.find_spec, platforms.OTHERS))):
        return Accelerators('cpu')
    found = subprocess.run([sys.executable, '-c', PROBE], capture_output=True, text=True, timeout=PROBE_S)
    if found.returncode:
        last = found.stderr.strip().splitlines()[-1:] or ['no message']
        raise config.InputError(
            f'JAX cannot use the accelerators of this machine: {last[0]}. Set JAX_PLATFORMS=cpu to leave them alone.'
        )
    kind, chips, count = json.loads(found.stdout.splitlines()[-1])
    if kind == 'cpu':
        return Accelerators('cpu')
    visible = [each for each in os.environ.get(VISIBLE[kind], '').split(',') if each]
    return Accelerators(kind, tuple(visible or map(str, range(chips))), count // chips)


def shares(processes: int, there: Accelerators, *, chips: int, mine: Sequence[int]) -> list[Share]:
    """What each of so many processes gets.

    Args:
      there: the accelerators, of which each process gets `chips`.
      mine: the numbers of the cores; each process gets equally many, and none is shared while there are enough.
    """
    if there.kind != 'cpu':
        cut = [there.ids[i * chips : (i + 1) * chips] for i in range(processes)]
        return [Share((), _visible(there.kind, ids)) for ids in cut]
    each = max(len(mine) // processes, 1)
    found = []
    for i in range(processes):
        own = tuple(mine[(i * each + j) % len(mine)] for j in range(each))
        threads = dict.fromkeys(THREAD_LIMITS, str(each))
        found.append(Share(tuple(core for core in own if core >= 0), threads))
    return found


def _visible(kind: str, ids: Sequence[str]) -> dict[str, str]:
    named = {VISIBLE[kind]: ','.join(ids)}
    if kind != 'tpu':
        return named
    return {**named, 'TPU_CHIPS_PER_PROCESS_BOUNDS': TPU_BOUNDS[len(ids)], 'TPU_PROCESS_BOUNDS': '1,1,1'}
