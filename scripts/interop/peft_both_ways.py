#!/usr/bin/env python
"""Adapters in both directions between this package and PEFT's: bytes that come back, and logits.

python scripts/interop/peft_both_ways.py OUT [--python PYTHON]

Without --python it makes an environment with PEFT in OUT/peft (700 MB). Of each of three models with random weights:
an adapter that PEFT's save_pretrained() wrote becomes a run here, which computes what PEFT's model computes and is
written with the same bytes; and an adapter that was trained here is loaded by PEFT, which computes what the run
computes and saves the same bytes again. Logits are compared in float64. Ends with status 1 if anything differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import venv
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config, verbs
from bigmodel_jax.adapters import lora
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.interop import finetuning
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop

SIDE = pathlib.Path(__file__).with_name('peft_package.py')
TENSORS = 'adapter_model.safetensors'
PINNED = ('peft==0.21.2', 'transformers==5.24.0')
# How far logits may be apart, as a share of the largest: transformers computes norms and rotary positions in float32,
# of a model in float64 too. What an adapter changes is far more.
TOLERANCE, EFFECT = 1e-6, 1e-2
TEXT = 'the quick brown fox jumps over the lazy dog. ' * 40
TARGETS = {
    'gpt2': ('*.attention.query', '*.ffn.down'),
    'llama': ('*.attention.*', '*.ffn.*'),
    'qwen3': ('*.attention.out',),
}


def environment(out: pathlib.Path) -> str:
    """The interpreter of an environment that has PEFT."""
    path = out / 'peft'
    if not path.exists():
        venv.create(path, with_pip=True)
        index = ('--extra-index-url', 'https://download.pytorch.org/whl/cpu')
        subprocess.run([path / 'bin' / 'pip', 'install', '--quiet', *index, 'torch', *PINNED], check=True)
    return str(path / 'bin' / 'python')


def adapted(base: pathlib.Path, targets: tuple[str, ...]) -> Experiment:
    """An adapter that learns a sentence."""
    data = text.Text(source=sources.Texts(texts=(TEXT,)), tokenizer=tokenizers.Bytes(), batch=4, length=32)
    return Experiment(
        name='adapted',
        steps=20,
        data=data,
        model=finetuning.model(base),
        initialization=finetuning.Weights(path=str(base)),
        adapter=lora.Lora(rank=5, alpha=10, targets=targets),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-2)),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=20),
        watch=Watch(log_every=20),
    )


def logits(path: pathlib.Path, inputs: np.ndarray) -> np.ndarray:
    """[B, T, V] of a run, in float64."""
    trained = directory.open_run(path).restore()
    with jax.enable_x64(True):
        module = config.vary(trained.experiment.model, {'dtype': 'float64'}).build()
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained.params)
        found: dict[str, Any] = module.apply({'params': params}, {'inputs': inputs})
        return np.asarray(found['logits'])


def equal_bytes(left: pathlib.Path, right: pathlib.Path) -> bool:
    return left.read_bytes() == right.read_bytes()


def compare(case: pathlib.Path, inputs: np.ndarray) -> dict[str, Any]:
    """Both directions of one model; those of PEFT's package are in its directory."""
    (theirs, ours, base), run = (np.load(case / f'{name}.npy') for name in ('theirs', 'ours', 'base')), case / 'run'
    return {
        'model': case.name,
        'theirs here and back: bytes': equal_bytes(case / 'theirs' / TENSORS, case / 'theirs_again' / TENSORS),
        'theirs here: largest difference of logits': float(np.abs(logits(case / 'theirs_run', inputs) - theirs).max()),
        'ours there and back: bytes': equal_bytes(case / 'ours' / TENSORS, case / 'ours_again' / TENSORS),
        'ours there: largest difference of logits': float(np.abs(logits(run, inputs) - ours).max()),
        'effect of ours': float(np.abs(ours - base).max()),
        'largest logit': float(np.abs(ours).max()),
    }


def holds(row: dict[str, Any]) -> bool:
    has_bytes = all(value for name, value in row.items() if name.endswith('bytes'))
    largest = row['largest logit']
    has_logits = all(value <= TOLERANCE * largest for name, value in row.items() if 'difference' in name)
    return has_bytes and has_logits and row['effect of ours'] > EFFECT * largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=pathlib.Path, help='a new directory')
    parser.add_argument('--python', help='the interpreter of an environment that has peft and transformers')
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    inputs = np.random.default_rng(0).integers(0, 256, (2, 24))
    np.save(options.out / 'inputs.npy', inputs)
    python = options.python or environment(options.out)
    subprocess.run([python, SIDE, 'write', options.out], check=True)
    for name, targets in TARGETS.items():
        case = options.out / name
        verbs.convert(case / 'theirs', case / 'theirs_run', base=case / 'base')
        verbs.convert(case / 'theirs_run', case / 'theirs_again')
        loop.train(adapted(case / 'base', targets), case / 'run')
        verbs.convert(case / 'run', case / 'ours')
    read = subprocess.run([python, SIDE, 'read', options.out], check=True, stdout=subprocess.PIPE, text=True)
    versions = json.loads(read.stdout.splitlines()[-1])
    rows = [compare(options.out / name, inputs) for name in TARGETS]
    (options.out / 'peft.json').write_text(json.dumps({'versions': versions, 'rows': rows}, indent=1) + '\n')
    sys.stdout.write(json.dumps({'versions': versions, 'rows': rows}, indent=1) + '\n')
    return 0 if all(map(holds, rows)) else 1


if __name__ == '__main__':
    raise SystemExit(main())
