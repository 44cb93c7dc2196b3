"""The two files of an adapter, read and checked, and written."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.adapters import lora
from bigmodel_jax.interop.files import folder, tensor_file

CONFIG, TENSORS = 'adapter_config.json', 'adapter_model.safetensors'
# Of ours: the digest of the weights to which the adapter belongs, which PEFT does not write and ignores.
BASE = 'base.json'
# Fields that say nothing of what the adapter computes once it is trained.
SILENT = frozenset({
    'auto_mapping', 'base_model_name_or_path', 'revision', 'peft_version', 'task_type', 'inference_mode',
    'target_modules', 'exclude_modules', 'layers_pattern', 'layers_to_transform', 'fan_in_fan_out', 'megatron_core',
    'qalora_group_size', 'ensure_weight_tying', 'runtime_config',
})  # fmt: skip
USED = ('peft_type', 'r', 'lora_alpha', 'lora_dropout', 'use_rslora', 'rank_pattern', 'alpha_pattern')
EMPTY: tuple[Any, ...] = (None, False, {}, [], 'none')
# How PEFT draws factors that do not change the weights of the base.
INITIALIZERS = (True, False, 'gaussian', 'eva', 'orthogonal')


class AdapterFiles(NamedTuple):
    """A directory of PEFT."""

    path: pathlib.Path
    values: dict[str, Any]  # adapter_config.json
    tensors: dict[str, np.ndarray]
    base: str | None  # The digest of the weights to which it belongs, if it was written here.
    targets: tuple[str, ...] | None  # The paths of ours that have an adapter, if it was written here.

    @property
    def rank(self) -> int:
        return self.values['r']

    @property
    def alpha(self) -> float:
        return float(self.values['lora_alpha'])

    def alpha_of(self, module: str) -> float:
        """That of a module: of the first pattern that its name ends in, as PEFT has it."""
        for suffix, alpha in (self.values.get('alpha_pattern') or {}).items():
            if module == suffix or module.endswith(f'.{suffix}'):
                return float(alpha)
        return self.alpha


def is_adapter(directory: pathlib.Path) -> bool:
    """Whether a directory is one of PEFT."""
    return (directory / CONFIG).is_file()


def read(directory: pathlib.Path) -> AdapterFiles:
    """The adapter in a directory.

    Raises:
      InputError: a file is missing or damaged, or it is an adapter that is not supported.
    """
    values = folder.read_json(directory / CONFIG)
    _check(values, directory / CONFIG)
    if not (directory / TENSORS).is_file():
        raise config.InputError(
            f'{directory / TENSORS} is missing. The adapter_model.bin of an old version of PEFT is a pickle, which is '
            'not read; save it anew with safe_serialization=True.'
        )
    file = tensor_file.TensorFile(directory / TENSORS)
    tensors = {name: np.array(file.read(name)) for name in file.entries}
    base = folder.read_json(directory / BASE) if (directory / BASE).is_file() else {}
    digest, targets = base.get('digest'), base.get('targets')
    if not isinstance(digest, str | None) or not isinstance(targets, list | None):
        raise config.InputError(f'{directory / BASE} is damaged; move it away to use the adapter without it.')
    return AdapterFiles(directory, values, tensors, digest, None if targets is None else tuple(targets))


def _check(values: Mapping[str, Any], path: pathlib.Path) -> None:
    """Raises InputError if an adapter_config.json says what is not implemented."""
    if values.get('peft_type') != 'LORA':
        raise config.InputError(f'{path}: peft_type={values.get("peft_type")!r} is not supported; there is LORA.')
    if values.get('init_lora_weights', True) not in INITIALIZERS:
        raise config.InputError(
            f'{path}: init_lora_weights={values["init_lora_weights"]!r} changes the weights of the base, which are not '
            'in the directory. Save it with path_initial_model_for_weight_conversion, as PEFT describes.'
        )
    known = {*SILENT, *USED, 'init_lora_weights'}
    other = [name for name, value in values.items() if name not in known and value not in EMPTY]
    if other:
        raise config.InputError(f'{path}: {other[0]}={values[other[0]]!r} is not supported; leave it out.')
    rank, alpha, rate = (values.get(name) for name in ('r', 'lora_alpha', 'lora_dropout'))
    if not isinstance(rank, int) or rank < 1:
        raise config.InputError(f'{path}: r={rank!r} should be a whole number above 0.')
    if not isinstance(alpha, (int, float)) or not 0 < alpha < float('inf'):
        raise config.InputError(f'{path}: lora_alpha={alpha!r} should be a number above 0.')
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise config.InputError(f'{path}: lora_dropout={rate!r} should be a number from 0 to below 1.')
    for name in ('rank_pattern', 'alpha_pattern'):
        if not isinstance(values.get(name) or {}, dict):
            raise config.InputError(f'{path}: {name}={values[name]!r} should be an object.')


def alpha_of_blocks(alpha: float, blocks: int, *, rank_stabilized: bool) -> float:
    """The alpha of an adapter of so many times the rank that has the same scale."""
    found = float(alpha * (math.sqrt(blocks) if rank_stabilized else blocks))
    return int(found) if found.is_integer() else found


def write(
    directory: pathlib.Path,
    adapter: lora.Lora,
    tensors: Mapping[str, np.ndarray],
    *,
    said: Mapping[str, Any],
    base: Mapping[str, Any],
) -> None:
    """Writes an adapter, as PEFT's save_pretrained() does: tensors in the order of their names.

    Args:
      said: fields of adapter_config.json beside those of `adapter`.
      base: what BASE holds.
    """
    values = {
        'peft_type': 'LORA',
        'r': adapter.rank,
        'lora_alpha': int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha,
        'lora_dropout': adapter.dropout,
        'use_rslora': adapter.rank_stabilized,
        'bias': 'none',
        'inference_mode': True,
        'init_lora_weights': True,
        **said,
    }
    directory.mkdir(parents=True)
    (directory / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True))
    (directory / BASE).write_text(json.dumps(base, indent=2))
    contents = {name: (tensors[name].shape, tensors[name].dtype) for name in sorted(tensors)}
    with tensor_file.TensorWriter(directory / TENSORS, contents) as writer:
        for name in contents:
            writer.write(name, tensors[name])
