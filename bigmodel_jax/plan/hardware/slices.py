"""Slices by name: 'v5p:4x4x4', 'v5p-128', '2*v5e:16x16', 'h100:8'; and their devices, which need not exist."""

import dataclasses
import functools
import importlib.util
import itertools
import math
import os
import re
import typing

from bigmodel_jax import config
from bigmodel_jax.hosts import chips
from bigmodel_jax.train import device_memory

if typing.TYPE_CHECKING:
    import jax

NAME = re.compile(r'(?:(\d+)\*)?([a-z]\w*?)(?::(\d+(?:x\d+)*)|-(\d+))', re.IGNORECASE)
ALIASES = {'v5litepod': 'v5e', 'v5': 'v5p', 'trillium': 'v6e', 'ironwood': 'tpu7x', 'v7x': 'tpu7x'}
# Below one cube of 4 x 4 x 4 chips, and the pods of two dimensions.
PARTS_OF_A_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
PLANES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
MACHINES = ((1,), (2,), (4,), (8,))
# The compiler must not ask for a TPU machine's metadata, nor insist on being the only one that runs; the last two only
# spare its complaint that there is no such machine.
ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5p-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}
# The names 'v4-32' and 'v5p-128' count cores, of which a chip has two.
CORES = {'v4': 2, 'v5p': 2, 'tpu7x': 2}


@dataclasses.dataclass(frozen=True)
class Slice:
    """`count` equal slices of a pod (or machines with GPUs), joined by the data-centre network."""

    chip: chips.Chip
    shape: tuple[int, ...]  # Chips along each dimension of one slice's torus.
    count: int = 1

    def __str__(self) -> str:
        return f'{self.count}*{self._one}' if self.count > 1 else self._one

    @property
    def _one(self) -> str:
        return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

    @property
    def chips(self) -> int:
        """Chips of all the slices together."""
        return self.count * math.prod(self.shape)

    @property
    def size(self) -> int:
        """JAX devices of all the slices together."""
        return self.chips * self.chip.devices

    @property
    def wrap(self) -> tuple[bool, ...]:
        """Along which dimensions the last chip is a neighbour of the first.

        Source: a cube of v4, v5p and TPU7x wraps in each dimension (Jouppi et al., 2023, arXiv:2304.01433, section
        2.2); of v5e and v6e only a side of 16 does ('How to Scale Your Model', 'TPU networking').
        """
        if self.chip.torus == 3:
            return (all(size % 4 == 0 for size in self.shape),) * 3
        return tuple(size == 16 for size in self.shape)

    def devices(self) -> 'list[jax.Device]':
        """Devices to compile for, in the slices' order; they cannot hold arrays.

        Raises:
          InputError: the compiler is not installed, or there is none for this chip.
        """
        if self.chip.platform != 'tpu':
            raise config.InputError(
                f'{self}: only TPU programs can be compiled without the chip; plan --fast answers for GPUs.'
            )
        if importlib.util.find_spec('libtpu') is None:
            raise config.InputError(
                f'Compiling for {self} needs the TPU compiler. Install it (200 MB; no TPU is needed): '
                'pip install libtpu. Or use plan --fast, which does not compile.'
            )
        return _devices(self)


@functools.cache
def _devices(of: Slice) -> 'list[jax.Device]':
    from jax.experimental import topologies  # Names of slices are read without JAX.

    for name, value in ENVIRONMENT.items() if not device_memory.has_tpu() else ():
        os.environ.setdefault(name, value)
    cores_apart = of.chip.devices > 1 or of.chip.torus == 2
    many = {} if of.count == 1 else {'num_slices': of.count}
    # Without all of this the slice is one whose torus is cut open, for which the compiler chooses other collectives.
    topology = topologies.get_topology_desc(
        of._one,
        platform='tpu',
        chip_config_name='default' if cores_apart else 'megacore',
        chips_per_host_bounds=(1, 1, 1) if math.prod(of.shape) == 1 else (2, 2, 1),
        wrap=(*of.wrap, False)[:3],
        **many,
    )
    return list(topology.devices)


def parse(text: str) -> Slice:
    """The slice of that name.

    Raises:
      InputError: there is no such slice; names the nearest that can be rented.
    """
    match = NAME.fullmatch(text.strip())
    if match is None:
        raise config.InputError(
            f'{text!r} is not the name of a slice; use a chip and a shape such as v5p:4x4x4 or v5e:16x16, '
            '2*v5e:16x16 for two slices, or h100:8.'
        )
    count, name, shape_text, number = match.groups()
    name = ALIASES.get(name.lower(), name.lower())
    if name not in chips.CHIPS:
        near, known = config.nearest(name, chips.CHIPS), ', '.join(chips.CHIPS)
        raise config.InputError(
            f'{text!r}: there is no chip {name!r}.{near}' + ('' if 'Known' in near else f' Known: {known}.')
        )
    chip = chips.CHIPS[name]
    if count == '0':
        raise config.InputError(f'{text!r}: use at least one slice.')
    if number is not None:
        wanted = int(number) // CORES.get(name, 1)
        fitting = [shape for shape in shapes(chip) if math.prod(shape) == wanted]
        # Of equally many chips in other shapes, the nearest to a cube, as Google Cloud chooses.
        found = min(fitting, key=sum, default=None)
    else:
        found = tuple(int(size) for size in shape_text.split('x'))
        wanted = math.prod(found)
    if found not in shapes(chip):
        nearest = sorted(shapes(chip), key=lambda shape: _distance(shape, found or (wanted,)))[:3]
        names = ', '.join(str(Slice(chip, shape)) for shape in sorted(nearest, key=math.prod))
        raise config.InputError(f'{text!r}: {name} has no slice of that shape. The nearest: {names}.')
    return Slice(chip, found, int(count or 1))


def _distance(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[float, int]:
    chips_apart = abs(math.log(math.prod(shape) / max(math.prod(wanted), 1)))
    return chips_apart, sum(abs(a - b) for a, b in itertools.zip_longest(shape, sorted(wanted), fillvalue=0))


@functools.cache
def shapes(chip: chips.Chip) -> tuple[tuple[int, ...], ...]:
    """The shapes in which slices of a chip are rented, smallest first.

    Source: the tables of https://cloud.google.com/tpu/docs/v5p (and /v4, /v5e, /v6e, /tpu7x). From one cube on, each
    dimension is a multiple of 4, and none is less than the one before it.
    """
    if chip.torus == 0:
        return MACHINES
    if chip.torus == 2:
        return PLANES
    cubes = [
        (4 * a, 4 * b, 4 * c)
        for volume in range(1, chip.largest // 64 + 1)
        for a, b, c in _boxes(volume)
    ]  # fmt: skip
    return (*PARTS_OF_A_CUBE, *cubes)


def _boxes(volume: int) -> list[tuple[int, int, int]]:
    """The boxes a <= b <= c of that volume, the nearest to a cube first."""
    found = [
        (a, b, volume // (a * b))
        for a in range(1, round(volume ** (1 / 3)) + 1)
        if volume % a == 0
        for b in range(a, math.isqrt(volume // a) + 1)
        if volume // a % b == 0
    ]
    return sorted(found, key=sum)
