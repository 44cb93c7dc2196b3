"""An adapter of PEFT as one of ours: its config, and the arrays that go beside those of the base model."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.adapters import lora
from bigmodel_jax.interop import rules
from bigmodel_jax.interop.peft import adapter_files, adapter_tensors
from bigmodel_jax.interop.peft.adapter_tensors import PREFIX, AdaptedModule, AdapterFactors
from bigmodel_jax.layers.base import weights

SHOWN = 4


class ImportedAdapter(NamedTuple):
    """What an adapter of PEFT is here."""

    config: lora.Lora
    arrays: dict[str, np.ndarray]  # By their paths among the parameters: 'blocks.layers.attention.query_lora.a'.


def imported(files: adapter_files.AdapterFiles, modules: Mapping[str, AdaptedModule]) -> ImportedAdapter:
    """The adapter, for the model that has these linear modules.

    Raises:
      InputError: it is for another model, or of a form that there is not here.
    """
    pairs = _pairs(files, modules)
    found: dict[str, dict[tuple[int, ...], AdapterFactors]] = {}
    for name, pair in pairs.items():
        module = modules[name]
        for slot, factors in _slots(files, module, module.read(*pair)):
            found.setdefault(slot.path, {})[slot.at] = factors
    _check_whole(files, found, modules)
    how = lora.Lora(
        rank=files.rank,
        alpha=files.alpha,
        targets=tuple(sorted(found)),
        dropout=float(files.values['lora_dropout']),
        rank_stabilized=bool(files.values.get('use_rslora')),
    )
    arrays = {}
    for path, layers in found.items():
        leading = tuple(index + 1 for index in max(layers)) if max(layers) else ()
        constants = {'scale': how.scale, **({'rate': how.dropout} if how.dropout else {})}
        stacked = [np.stack([layers[at][i] for at in sorted(layers)]) for i in range(2)]
        parts = {name: each.reshape(*leading, *each.shape[1:]) for name, each in zip('ab', stacked)}
        parts |= {name: np.full(leading, value, np.float32) for name, value in constants.items()}
        arrays |= {f'{path}{weights.ADAPTER}.{name}': part for name, part in parts.items()}
    return ImportedAdapter(how, arrays)


def _pairs(
    files: adapter_files.AdapterFiles, modules: Mapping[str, AdaptedModule]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of each adapted module -> its two tensors."""
    names: dict[str, set[str]] = {}
    for key in files.tensors:
        kind = next((each for each in (adapter_tensors.A, adapter_tensors.B) if key.endswith(each)), None)
        name = key.removeprefix(PREFIX).removesuffix(kind or '')
        if kind is None or not key.startswith(PREFIX) or name not in modules:
            known = ', '.join(list(modules)[:SHOWN])
            raise config.InputError(
                f'{files.path}: {key} belongs to no linear layer of the base model, which has {known} ...; the adapter '
                'is of another base, or adapts what is not supported here (embeddings, biases, whole modules).'
            )
        names.setdefault(name, set()).add(kind)
    half = sorted(name for name, kinds in names.items() if len(kinds) < 2)
    if half:
        raise config.InputError(f'{files.path}: {half[0]} has only one of lora_A and lora_B. Save the adapter again.')
    if not names:
        raise config.InputError(f'{files.path} holds no adapter.')
    a, b = adapter_tensors.A, adapter_tensors.B
    return {name: (files.tensors[PREFIX + name + a], files.tensors[PREFIX + name + b]) for name in sorted(names)}


def _slots(
    files: adapter_files.AdapterFiles, module: AdaptedModule, factors: list[AdapterFactors]
) -> list[tuple[rules.Slot, AdapterFactors]]:
    """Our adapters of a module, each with the rank and the scale of the config."""
    rank, alpha = factors[0].a.shape[-1], files.alpha_of(module.name)
    present = [slot for slot in module.slots if files.targets is None or slot.path in files.targets]
    blocks = rank // files.rank
    if (rank, alpha) == (files.rank, files.alpha):
        return [(slot, each) for slot, each in zip(module.slots, factors) if slot in present]
    expected = adapter_files.alpha_of_blocks(files.alpha, blocks, rank_stabilized=bool(files.values.get('use_rslora')))
    own = [each for slot, each in zip(module.slots, factors) if slot in present]
    found = adapter_tensors.apart(own, files.rank) if (blocks * files.rank, alpha) == (rank, expected) else None
    if found is None:
        raise config.InputError(
            f'{files.path}: {module.name} has rank {rank} and alpha {alpha:g}, but others {files.rank} and '
            f'{files.alpha:g}; adapters of several ranks or scales are not supported.'
        )
    return list(zip(present, found))


def _check_whole(
    files: adapter_files.AdapterFiles,
    found: Mapping[str, Mapping[tuple[int, ...], AdapterFactors]],
    modules: Mapping[str, AdaptedModule],
) -> None:
    """Raises InputError if some layers of a stack have an adapter and others not."""
    for module in modules.values():
        for slot in module.slots:
            if slot.path in found and slot.at not in found[slot.path]:
                raise config.InputError(
                    f'{files.path} has no adapter of {module.name}, but of other layers. The layers of a stack are one '
                    'array here, and all of them have an adapter, or none.'
                )
