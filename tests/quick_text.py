"""A language model of a few thousand weights, on a text with a trained tokenizer, for tests."""

import pathlib

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from runs import quick

STEPS = 4


def write(folder: pathlib.Path) -> pathlib.Path:
    """Makes `folder` a corpus of two files."""
    for name, first in (('train.txt', 0), ('held_out.txt', 150)):
        lines = [f'The number {i} is {"odd" if i % 2 else "even"}, and its square is {i * i}.' for i in range(200)]
        (folder / name).write_text('\n'.join(lines[first:]))
    return folder


def experiment(corpus: pathlib.Path) -> Experiment:
    train = sources.TextFile(path=str(corpus / 'train.txt'))
    tokenizer = tokenizers.Bpe(vocab=300, trained_on=train)
    data = text.Text(source=train, tokenizer=tokenizer, batch=4, length=16)
    held_out = text.Text(
        source=sources.TextFile(path=str(corpus / 'held_out.txt')), tokenizer=tokenizer, batch=4, length=16
    )
    return Experiment(
        name='quick_text',
        steps=STEPS,
        data=data,
        model=quick.Layered(vocab=304),
        objective=quick.Tokens(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=1)),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=2),
        evaluations=(loss.Loss(data=held_out, every_steps=2, max_batches=2),),
        watch=Watch(log_every=2),
    )


def generating(corpus: str | pathlib.Path) -> Experiment:
    """The same with a model that generates text."""
    model = decoder.gpt(vocab=304, width=16, layers=1, heads=2, length=64)
    return config.vary(experiment(pathlib.Path(corpus)), {'model': model, 'objective': language.LanguageModel()})
