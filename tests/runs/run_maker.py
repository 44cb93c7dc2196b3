"""Makes run directories with believable curves, without training."""

import datetime
import json
import pathlib

import numpy as np

from bigmodel_jax import config, experiment
from bigmodel_jax.data.sources.text_files import TextFile
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import unigram
from bigmodel_jax.layers import attention, blocks, ffn, positions
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.run_directory import event_log

START_S = 1_750_000_000.0
STEP_S = 0.06
POEM = '\nWhat light is this, that through the window breaks\nAnd makes the morning envious of her eyes?\n'
PROMPTS = ('ROMEO:', '<script>alert(1)</script>')


def example(steps: int = 2_000) -> experiment.Experiment:
    """A small character model."""
    rows = text.Text(source=TextFile(path='input.txt'), tokenizer=tokenizers.Bytes(), batch=12, length=64)
    block = blocks.Block(mixer=attention.Attention(heads=4), ffn=ffn.Mlp(hidden=512))
    return experiment.Experiment(
        name='shakespeare_char',
        steps=steps,
        data=rows,
        model=decoder.Decoder(
            vocab=128, width=128, layers=4, block=block, positions=positions.Learned(length=64), dtype='bfloat16'
        ),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=100), b2=0.99, clip_norm=1.0
        ),
        evaluations=(loss.Loss(data=rows, every_steps=250), unigram.Unigram(data=rows, every_steps=1_000)),
    )


def session(step: int, started_s: float) -> dict:
    started = datetime.datetime.fromtimestamp(started_s, datetime.UTC)
    return {
        'started': started.isoformat(timespec='seconds'),
        'step': step,
        'command': ['/lib/bigmodel_jax/__main__.py', 'train', 'experiments/shakespeare_char.py', '--workdir', 'runs/a',
                    '--set', 'optimizer.schedule.peak=1e-3', '--stop-after', '800'],
        'python': '3.12.3',
        'platform': 'Linux-6.8.0-x86_64-with-glibc2.39',
        'versions': {'jax': '0.12.0.1', 'jaxlib': '0.12.0.1', 'flax': '0.12.12', 'optax': '0.2.8', 'numpy': '2.4.1'},
        'backend': 'cpu',
        'devices': [{'kind': 'cpu', 'count': 8}],
        'processes': 1,
        'mesh': {'data': 4, 'fsdp': 2, 'tensor': 1},
        'xla_flags': '',
        'git': {'commit': '4f1c9d0b7d0b9c1f7f0a6e2f3f1b8a5c9d7e6f10', 'branch': 'main', 'dirty': True,
                'diff': '-    width=64\n+    width=128  # <b>wide</b>\n'},
        'data': {'source': {'path': 'input.txt', 'sha256': '9b1f' * 16}, 'tokens': 1_003_854, 'length': 64},
        'parameters': 804_096,
    }  # fmt: skip


def train_records(first: int, last: int, *, began_s: float, every: int = 10) -> list[dict]:
    """The reports of steps first+1 .. last."""
    found = []
    for step in range(first + every, last + 1, every):
        noise = np.random.default_rng(step).normal(size=3)
        nats = 1.62 + 2.6 * np.exp(-step / 140) + 0.55 * np.exp(-step / 900) + 0.05 * noise[0]
        rate = 1e-3 * min(step / 100, 0.5 + 0.5 * np.cos(np.pi * step / 2_000))
        norm = (0.45 + 4 * np.exp(-step / 60)) * np.exp(0.2 * noise[1]) * (20 if step == 640 else 1)
        metrics = {
            'loss': nats, 'nll': nats, 'accuracy': 0.62 - 0.14 * nats + 0.2, 'bits_per_byte': nats / np.log(2),
            'grad_norm': norm, 'learning_rate': rate,
        }  # fmt: skip
        when = began_s + STEP_S * (step - first)
        speed = {'seconds_per_step': STEP_S, 'tokens_per_s': 768 / STEP_S * np.exp(0.03 * noise[2])}
        found.append({'kind': 'train', 'step': step, 'time': when, 'metrics': metrics})
        found.append({'kind': 'speed', 'step': step, 'time': when, 'metrics': speed})
        if step % 250 == 0:
            value = nats + 0.12 + 0.1 * step / 2_000
            metrics = {'loss': value, 'nll': value, 'perplexity': np.exp(value), 'bits_per_byte': value / np.log(2)}
            record = {'kind': 'evaluation', 'name': 'validation', 'step': step, 'time': when, 'seconds': 1.2}
            found.append(record | {'metrics': metrics})
        if step % 1_000 == 0:
            constant = {'loss': 3.317, 'bits_per_byte': 4.785}
            found.append({'kind': 'evaluation', 'name': 'unigram', 'step': step, 'time': when, 'metrics': constant})
        if step % 500 == 0:
            samples = [{'prompt': prompt, 'text': POEM * (1 + i)} for i, prompt in enumerate(PROMPTS)]
            found.append({'kind': 'samples', 'name': 'samples', 'step': step, 'time': when, 'samples': samples})
    return found


def write(workdir: pathlib.Path, history: list[dict], *, sessions: list[dict], steps: int = 2_000) -> pathlib.Path:
    """A run directory with these records."""
    workdir.mkdir(parents=True)
    (workdir / 'experiment.json').write_text(json.dumps(config.to_json(example(steps))))
    (workdir / 'environment.json').write_text(json.dumps(sessions))
    with event_log.EventWriter(workdir / event_log.FILE) as writer:
        for record in history:
            writer.append(record)
    return workdir


def finished(workdir: pathlib.Path, steps: int = 2_000, every: int = 10) -> pathlib.Path:
    """A run that was killed at 60%, resumed at half and finished."""
    half, killed, again_s = steps // 2, steps * 3 // 5, START_S + 4_000
    history = [
        {'kind': 'start', 'step': 0, 'time': START_S},
        *train_records(0, killed, began_s=START_S + 6, every=every),
        {'kind': 'resume', 'step': half, 'time': again_s},
        *train_records(half, steps, began_s=again_s + 6, every=every),
        {'kind': 'end', 'step': steps, 'time': again_s + 100, 'digest': 'c0ffee' * 10 + 'beef'},
    ]
    write(workdir, history, sessions=[session(0, START_S), session(half, again_s)], steps=steps)
    for name in (half, steps, f'{steps}.orbax-checkpoint-tmp'):
        (workdir / 'checkpoints' / str(name)).mkdir(parents=True)
    return workdir


def unfinished(workdir: pathlib.Path, last: int, sessions: list[dict] | None = None) -> pathlib.Path:
    """A run of 2,000 steps that has come to step `last`."""
    history = [{'kind': 'start', 'step': 0, 'time': START_S}, *train_records(0, last, began_s=START_S + 6)]
    return write(workdir, history, sessions=[session(0, START_S)] if sessions is None else sessions)
