"""Exports runs and loads them in a fresh virtual environment that has jax, numpy and flatbuffers, as pip installs them.

Of each run the program `forward` is called for several numbers of rows and lengths, in both environments, and the bits
are compared.

Example: python scripts/benchmark/export_alone.py runs/quickstart runs/digits
"""

import argparse
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
import venv
from typing import Any

import numpy as np

from bigmodel_jax import verbs
from bigmodel_jax.export import exporting, loader

PACKAGES = ('jax', 'numpy', 'flatbuffers')
SIZES = ((1, 1), (3, 7), (8, 5), (1, None))  # Rows and length; None: the longest.
LONGEST = 64  # Where a model has no limit.
ALONE = """
import load, numpy as np, sys
model = load.load('.')
for path in sys.argv[1:]:
    np.savez(path.replace('inputs', 'outputs'), **model.programs['forward'](model.weights, dict(np.load(path))))
assert not [name for name in sys.modules if name.startswith('bigmodel_jax')]
"""


def fresh(folder: pathlib.Path) -> pathlib.Path:
    """The Python of a new environment with the versions that this one has."""
    venv.create(folder, with_pip=True)
    python = folder / 'bin' / 'python'
    versions = [f'{name}=={importlib.metadata.version(name)}' for name in PACKAGES]
    subprocess.run([python, '-m', 'pip', 'install', '-q', *versions], check=True)
    return python


def inputs(path: pathlib.Path) -> list[dict[str, np.ndarray]]:
    """Random inputs of the program forward, as the signature says, of several sizes."""
    signature = json.loads((path / 'signature.json').read_text())
    most = signature['dimensions'].get('length', {}).get('at_most') or LONGEST
    rng, found = np.random.default_rng(0), []
    for rows, length in SIZES:
        sizes = {'rows': rows, 'length': length or most}
        arrays: dict[str, Any] = {}
        for name, each in signature['programs']['forward']['inputs'].items():
            shape = [sizes.get(size, size) for size in each['shape']]
            integers = each['dtype'] == 'int32'
            drawn = rng.integers(0, each.get('below', 2), shape) if integers else rng.normal(size=shape)
            arrays[name] = drawn.astype(each['dtype'])
        found.append(arrays)
    return found


def compare(run: str, python: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """What was compared for a run; raises AssertionError where a bit differs."""
    options = exporting.ExportOptions(anyway=True)
    path = exporting.export(verbs.open_run(run), folder / 'exported', options).path
    model, files, outputs = loader.load(str(path)), [], 0
    for number, arrays in enumerate(inputs(path)):
        files.append(folder / f'inputs-{number}.npz')
        np.savez(files[-1], **arrays)
    subprocess.run([python, '-c', ALONE, *map(str, files)], cwd=path, check=True, env={'PATH': '/usr/bin:/bin'})
    for number, file in enumerate(files):
        own = model.programs['forward'](model.weights, dict(np.load(file)))
        for name, found in np.load(folder / f'outputs-{number}.npz').items():
            np.testing.assert_array_equal(found, own[name], err_msg=f'{name}, {file.name}')
            outputs += 1
    return {'run': run, 'programs': list(model.programs), 'arrays of equal bits': outputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = fresh(pathlib.Path(folder) / 'environment')
        listed = subprocess.run(
            [python, '-m', 'pip', 'list', '--format=freeze'], capture_output=True, text=True, check=True
        )
        print(f'Python {sys.version.split()[0]}:', ', '.join(listed.stdout.split()))
        for number, run in enumerate(options.runs):
            own = pathlib.Path(folder) / str(number)
            own.mkdir()
            print(json.dumps(compare(run, python, own)), flush=True)


if __name__ == '__main__':
    main()
