#!/usr/bin/env python
"""Changes every field of config.json, one at a time: no model may load here that computes something else than there.

python scripts/interop/field_walk.py OUT [CASE ...] --python PYTHON

PYTHON is the interpreter of an environment with transformers and torch. The cases are those of tests/oracles/
families.npz, all of them by default: small models of every family, with the options that make it different. Every
field that transformers writes, or that the family here knows, gets other values, is null, and is left out. What loads
here is compared with transformers' scores of the same files in float32. A case that is in OUT already is not walked
again. Ends with status 1 if a model loads with other scores.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import huggingface, matching
from bigmodel_jax.interop.files import folder

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tests'))
from interop import hashed, published  # noqa: E402  # Beside the recorded models.

SIDE = pathlib.Path(__file__).with_name('reference_outputs.py')


def recorded() -> dict[str, dict[str, Any]]:
    """Case -> its config, shapes and inputs."""
    found: dict[str, dict[str, Any]] = {}
    with np.load(published.ORACLES / 'families.npz') as arrays:
        for name in arrays:
            case, _, rest = name.partition('/')
            known = found.setdefault(case, {'inputs': {}})
            if rest == 'meta':
                known |= json.loads(arrays[name].tobytes())
            if rest.startswith('in/'):
                known['inputs'][rest.removeprefix('in/')] = arrays[name]
    return found


class Walk:
    """One case: its directory, and what was computed here of each model that its changes describe."""

    def __init__(self, path: pathlib.Path, known: dict[str, Any]):
        self.path, self.known = path, known
        self._outputs: dict[str, dict[str, np.ndarray]] = {}

    def ask(self, python: str) -> None:
        """Has transformers compute every change."""
        self.path.mkdir(parents=True, exist_ok=True)
        published.write(self.path / 'model', hashed.weights(self.known['shapes']), self.known['config'])
        inputs = {name: array for name, array in self.known['inputs'].items() if 'label' not in name}
        inputs = {name: array for name, array in inputs.items() if name not in ('start_positions', 'end_positions')}
        family = matching.family_of(self.known['config'], huggingface.FAMILIES, 'config.json')
        if family.is_paired:
            inputs['decoder_input_ids'] = inputs['input_ids'][:, ::-1]
        np.savez(self.path / 'inputs.npz', **inputs)
        names = sorted({*family.config_fields, *family.aliases})
        (self.path / 'fields.json').write_text(json.dumps(names))
        subprocess.run([python, SIDE, self.path, self.known['config']['architectures'][0]], check=True)

    def compare(self) -> dict[str, Any]:
        """How many changes were refused, and what of the others differs."""
        changes = json.loads((self.path / 'changes.json').read_text())
        with np.load(self.path / 'outputs.npz') as arrays:
            there = dict(arrays)
        result: dict[str, Any] = {'changes': len(changes) - 1, 'refused': 0, 'refused there alone': [], 'other': []}
        for number, change in enumerate(changes):
            found = self._found(change['config'])
            if found is None:
                assert number, 'the unchanged model should load'
                result['refused'] += 1
                continue
            name = f'{change["field"]} = {json.dumps(change["value"])}'
            if change['refused']:
                result['refused there alone'].append(f'{name}: {change["refused"]}')
                continue
            wanted = {key.partition('/')[2]: array for key, array in there.items() if key.startswith(f'{number}/')}
            if not wanted:
                result['refused there alone'].append(f'{name}: no scores')
                continue
            off = max(self._off(found[key], array) for key, array in wanted.items())
            if off > 1:
                result['other'].append(f'{name}: {off:.3g} times the tolerance')
        return result

    def _off(self, found: np.ndarray, wanted: np.ndarray) -> float:
        """The largest difference, in units of what rounding may make of it."""
        if found.shape != wanted.shape:
            return float('inf')
        mask_BT = self.known['inputs'].get('attention_mask')
        difference = np.abs(np.asarray(found, np.float64) - wanted)
        if mask_BT is not None and difference.shape[:2] == mask_BT.shape and difference.ndim > 1:
            difference = difference[mask_BT > 0]
        return float(difference.max() / (5e-5 * max(np.abs(wanted).max(), 1e-3)))

    def _found(self, values: dict[str, Any]) -> dict[str, np.ndarray] | None:
        """The scores of a changed model here; None where it is refused."""
        path = self.path / 'model'
        (path / folder.CONFIG).write_text(json.dumps(values))
        with np.load(self.path / 'inputs.npz') as arrays:
            inputs = dict(arrays)
        try:
            found = matching.match(folder.Folder(path), huggingface.FAMILIES)
            batch = found.family.batch(inputs, found.model, values)
            read = {name: array.tolist() for name, array in batch.items()}
            key = json.dumps([type(found.family).__name__, config.to_json(found.model), read], sort_keys=True)
            if key not in self._outputs:
                outputs = huggingface.load_pretrained(path).apply(inputs)
                self._outputs[key] = {name: np.asarray(array) for name, array in outputs.items()}
        except config.InputError:
            return None
        return self._outputs[key]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=pathlib.Path)
    parser.add_argument('cases', nargs='*')
    parser.add_argument('--python', required=True, help='the interpreter of an environment with transformers')
    parser.add_argument('--ask', action='store_true', help='only have transformers compute, and compare later')
    options = parser.parse_args()
    every, failed = recorded(), False
    for case in options.cases or every:
        path = options.out / case
        if not (path / 'result.json').exists():
            walk = Walk(path, every[case])
            if not (path / 'changes.json').exists():
                walk.ask(options.python)
            if options.ask:
                continue
            (path / 'result.json').write_text(json.dumps(walk.compare(), indent=1) + '\n')
        found = json.loads((path / 'result.json').read_text())
        failed |= bool(found['other'])
        loaded = found['changes'] - found['refused']
        sys.stdout.write(
            f'{case:24} {found["changes"]} changes: {found["refused"]} refused, {loaded} loaded, of which '
            f'{len(found["refused there alone"])} are refused by transformers; '
            f'{len(found["other"])} with other scores\n'
        )
        sys.stdout.write(''.join(f'  {line}\n' for line in found['other']))
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == '__main__':
    raise SystemExit(main())
