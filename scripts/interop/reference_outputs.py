#!/usr/bin/env python
"""What transformers computes with each field of a config.json changed; field_walk.py starts it, in its environment.

python scripts/interop/reference_outputs.py FOLDER CLASS

FOLDER has the model, inputs.npz, and fields.json: names of fields that config.json may have. It writes changes.json,
every change with what the reference says of it, and outputs.npz, the scores by the number of the change.
"""

import importlib
import json
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

GUESSES = (1, 0.5, True, 'other')
OTHERS = {'hidden_act': 'relu', 'hidden_activation': 'relu', 'activation_function': 'relu', 'rope_type': 'linear'}
SCORES = ('logits', 'start_logits', 'end_logits')
ABSENT = '(absent)'
# What the reference raises of a config.json that it does not take.
REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def values_instead(name: str, value: Any) -> list[Any]:
    """Other values of a field: of its type, or of some type where it is null."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, 2 * value + 2, None]
    if isinstance(value, float):
        return [1.5 * value + 0.25, None]
    if isinstance(value, str):
        return [OTHERS.get(name, value + '_'), None]
    if isinstance(value, list):
        return [value[::-1], value[:-1], None]
    return list(GUESSES) if value is None else [None]


def changes(values: dict[str, Any], names: list[str]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The path of a field, its new value, and all values with that one changed."""
    for name in sorted({*values, *names} - {'model_type', 'architectures'}):
        value = values.get(name)
        for other in values_instead(name, value):
            if name not in values or other != value:
                yield name, other, {**values, name: other}
        if name in values:
            yield name, ABSENT, {key: each for key, each in values.items() if key != name}
        if isinstance(value, dict):
            for path, other, inner in changes(value, []):
                yield f'{name}.{path}', other, {**values, name: inner}


def main() -> None:
    folder, cls_name = pathlib.Path(sys.argv[1]), sys.argv[2]
    torch, transformers = (importlib.import_module(each) for each in ('torch', 'transformers'))
    strict = importlib.import_module('huggingface_hub.errors').StrictDataclassError
    refusals = (*REFUSALS, strict)
    warnings.simplefilter('ignore')
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cls = getattr(transformers, cls_name)
    path = folder / 'model' / 'config.json'
    given = json.loads(path.read_text())
    complete = json.loads(cls.config_class.from_dict(given).to_json_string(use_diff=False))
    values = {**complete, **given}
    with np.load(folder / 'inputs.npz') as arrays:
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    told, outputs = [], {}
    every = [('', None, values), *changes(values, json.loads((folder / 'fields.json').read_text()))]
    for number, (field, value, changed) in enumerate(every):
        path.write_text(json.dumps(changed))
        try:
            model = cls.from_pretrained(path.parent, attn_implementation='eager', dtype=torch.float32).eval()
            with torch.no_grad():
                found = model(**batch, return_dict=True)
            outputs |= {f'{number}/{name}': found[name].numpy() for name in SCORES if name in found}
            refused = ''
        except refusals as error:
            refused = f'{type(error).__name__}: {error}'.splitlines()[0][:200]
        told.append({'field': field, 'value': value, 'config': changed, 'refused': refused})
    path.write_text(json.dumps(given))
    np.savez(folder / 'outputs.npz', **outputs)
    (folder / 'changes.json').write_text(json.dumps(told))  # Last: it says that all is there.


if __name__ == '__main__':
    main()
