"""Which device stands where in a mesh: slices of a pod, their torus, and the hosts."""

import collections
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from bigmodel_jax import config

# From the outermost, whose neighbours may be far apart, to the innermost, which speak most.
AXES = ('pipeline', 'data', 'fsdp', 'expert', 'sequence', 'tensor')


def shape_text(sizes: Mapping[str, int]) -> str:
    """A mesh as people write it: 'data 4 x tensor 2'; axes of size 1 are left out."""
    return ' x '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1) or '1 device'


def settled(given: Mapping[str, int], devices: int, *, slices: int, across: str) -> dict[str, int]:
    """The size of each axis on `devices` devices: a `data` of -1 takes what the others leave.

    Raises:
      InputError: they do not multiply to a number of devices that is there.
    """
    data, inner = given['data'], math.prod(size for axis, size in given.items() if axis != 'data')
    if data == 0 or data < -1:
        raise config.InputError(f'mesh.data={data}: use -1 (all that is left) or a positive number.')
    sizes = {**given, 'data': max(devices // inner, 1) if data == -1 else data}
    needed = inner * sizes['data']
    if needed > devices:
        raise config.InputError(
            f'mesh {shape_text(sizes)} needs {needed} devices, but there are {devices}. Use a smaller mesh '
            f'(--set mesh.fsdp=1), or --simulate-devices {needed} to try it on the CPU.'
        )
    if data == -1 and needed != devices:
        raise config.InputError(
            f'mesh {shape_text(sizes)} uses {needed} of {devices} devices; '
            f'the axes other than data multiply to {inner}, which must divide {devices}.'
        )
    if sizes[across] % slices:
        raise config.InputError(
            f'mesh.slices={slices} does not divide mesh.{across}={sizes[across]}, the axis across '
            f'the slices; use a multiple of {slices} for it.'
        )
    return sizes


def check_every_process(used: Sequence[jax.Device], sizes: Mapping[str, int]) -> None:
    """Raises InputError if a process would have no part in the mesh; it could not even read a metric."""
    idle = jax.process_count() - len({device.process_index for device in used})
    if idle:
        raise config.InputError(
            f'mesh {shape_text(sizes)} uses {len(used)} of {len(jax.devices())} devices and leaves {idle} of '
            f'{jax.process_count()} hosts without any; use more of them (such as --set mesh.data=-1) or fewer hosts.'
        )


def by_slice(devices: list[jax.Device], slices: int) -> list[list[jax.Device]]:
    """The devices of each slice; where the devices do not know of slices, equal blocks of them."""
    groups = collections.defaultdict(list)
    for device in devices:
        # On CPU and GPU it counts hosts.
        groups[getattr(device, 'slice_index', 0) if device.platform == 'tpu' else 0].append(device)
    if len(groups) == 1:
        size = len(devices) // slices
        return [devices[start : start + size] for start in range(0, len(devices), size)]
    if len(groups) != slices:
        raise config.InputError(
            f'mesh.slices={slices}, but the devices are {len(groups)} slices of a pod; set mesh.slices={len(groups)}.'
        )
    return [groups[index] for index in sorted(groups)]


def lay(shape: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
    """The devices of one slice as a grid whose neighbours are neighbours in the slice's torus.

    Raises:
      InputError: the torus cannot be cut like that: each mesh axis must be a product of whole torus dimensions.
    """
    if devices[0].platform != 'tpu':
        return np.array(devices).reshape(shape)
    try:
        return mesh_utils.create_device_mesh(shape, devices, contiguous_submeshes=False)
    except NotImplementedError as error:
        torus = [max(place) + 1 for place in zip(*(device.coords for device in devices))]
        dimensions = [size for size in torus if size > 1]
        raise config.InputError(
            f'mesh {shape_text(dict(zip(AXES, shape)))} cannot be laid on a slice of {"x".join(map(str, dimensions))}: '
            'each axis must be the product of whole dimensions of the torus, such as '
            f'{", ".join(map(str, products(dimensions)))}.'
        ) from error


def products(dimensions: Sequence[int]) -> list[int]:
    """The sizes that a mesh axis may have: products of some of the dimensions."""
    found = {1}
    for size in dimensions:
        found |= {size * other for other in found}
    return sorted(found)


def rings(line: Sequence[jax.Device]) -> tuple[int, ...]:
    """The torus dimensions that a line of devices runs along, the outermost first: 256 chips may be 16 rows of 16."""
    if line[0].platform != 'tpu':
        return (len(line),)
    coordinates = np.array([device.coords for device in line])
    sizes = [len(set(column)) for column in coordinates.T]
    # How far apart two devices are that differ in one coordinate alone; the outermost has the longest way.
    strides = [int(np.argmax(column != column[0])) for column in coordinates.T]
    found = tuple(sizes[i] for i in np.argsort(strides)[::-1] if sizes[i] > 1)
    return found if math.prod(found) == len(line) else (len(line),)


def turns(rings: Sequence[int]) -> list[list[list[int]]]:
    """For each torus dimension of a mesh axis, the outermost first, the groups of places along the axis that differ in
    that dimension alone: over (2, 3) first 0 3, 1 4 and 2 5, then 0 1 2 and 3 4 5."""
    places = np.arange(math.prod(rings)).reshape(rings)
    return [np.moveaxis(places, i, -1).reshape(-1, ring).tolist() for i, ring in enumerate(rings)]
