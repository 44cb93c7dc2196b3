"""The adapter of a run as one of PEFT."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.adapters import lora
from bigmodel_jax.interop.peft import adapter_files, adapter_tensors
from bigmodel_jax.interop.peft.adapter_tensors import AdaptedModule, AdapterFactors
from bigmodel_jax.layers.base import weights

Read = Callable[[str], np.ndarray]  # The parameter of a path, in memory.


def export(
    directory: pathlib.Path,
    adapter: lora.Lora,
    modules: Mapping[str, AdaptedModule],
    *,
    targets: Mapping[str, Any],
    read: Read,
    said: Mapping[str, Any],
    digest: str | None,
) -> int:
    """Writes the adapter of a run to a directory that does not exist; returns how many tensors it has.

    Args:
      adapter: of the experiment.
      modules: the linear modules of the model.
      targets: the paths that have an adapter.
      said: fields of adapter_config.json, such as 'task_type'.
      digest: of the base model; see base_weights.py. None: it is not known.

    Raises:
      InputError: PEFT has no such adapter.
    """
    _check(adapter, modules, targets)
    arrays = {path: {name: read(f'{path}{weights.ADAPTER}.{name}') for name in 'ab'} for path in targets}
    tensors: dict[str, np.ndarray] = {}
    suffixes: dict[str, int] = {}  # Of each target -> how many adapters of ours it holds, with factors of their own.
    for suffix, members in _by_suffix(modules, targets).items():
        factors = [[_factors(arrays.get(slot.path), slot.at) for slot in module.slots] for module in members]
        shared = all(map(_is_shared, factors))
        suffixes[suffix] = 1 if shared else sum(each is not None for each in factors[0])
        for module, each in zip(members, factors):
            a, b = module.write(each, shared=shared)
            key = adapter_tensors.PREFIX + module.name
            tensors |= {key + adapter_tensors.A: a, key + adapter_tensors.B: b}
    blocks = {suffix: count for suffix, count in suffixes.items() if count > 1}
    stable = adapter.rank_stabilized
    patterns = {
        'rank_pattern': {suffix: count * adapter.rank for suffix, count in blocks.items()},
        'alpha_pattern': {
            suffix: adapter_files.alpha_of_blocks(adapter.alpha, count, rank_stabilized=stable)
            for suffix, count in blocks.items()
        },
    }
    said = {**said, **patterns, 'target_modules': sorted(suffixes)}
    base = {'targets': sorted(targets)} | ({} if digest is None else {'digest': digest})
    adapter_files.write(directory, adapter, tensors, said=said, base=base)
    return len(tensors)


def _check(adapter: lora.Lora, modules: Mapping[str, AdaptedModule], targets: Mapping[str, Any]) -> None:
    """Raises InputError if PEFT has no such adapter."""
    if adapter.trained:
        raise config.InputError(
            f'adapter.trained={adapter.trained}: these parameters are trained in full, and an adapter of PEFT would be '
            'without them. Write the whole model, with --merge (merge=True).'
        )
    known = {slot.path for module in modules.values() for slot in module.slots}
    other = sorted(set(targets) - known)
    if other:
        raise config.InputError(
            f'{other[0]} is no linear layer in the files of Hugging Face, so that PEFT has no adapter of it. Write the '
            'whole model, with --merge (merge=True).'
        )


def _by_suffix(modules: Mapping[str, AdaptedModule], targets: Mapping[str, Any]) -> dict[str, list[AdaptedModule]]:
    """The modules that have an adapter, by what they are called within a layer."""
    found: dict[str, list[AdaptedModule]] = {}
    for module in modules.values():
        if any(slot.path in targets for slot in module.slots):
            found.setdefault(module.suffix, []).append(module)
    return found


def _factors(arrays: Mapping[str, np.ndarray] | None, at: tuple[int, ...]) -> AdapterFactors | None:
    return None if arrays is None else AdapterFactors(arrays['a'][at], arrays['b'][at])


def _is_shared(factors: list[AdapterFactors | None]) -> bool:
    """Whether one A serves all matrices of a module, bit for bit."""
    first = factors[0]
    return first is not None and all(each is not None and each.a.tobytes() == first.a.tobytes() for each in factors)
