"""A small language model of the Python documentation: the whole framework in three minutes on two CPU cores.

Question: does everything work here? Data, training, resumption, evaluation, sampling, report.
Source:   GPT-2's architecture (Radford et al., 2019) at 1/60 of its size; every Python installation carries the text.
Target:   validation loss far below the unigram entropy, and samples that read like documentation.
Run:      scripts/quickstart, or
          python -m bigmodel_jax train experiments/quickstart.py --workdir runs/quickstart
"""

from bigmodel_jax import sharding
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, text, tokenizers
from bigmodel_jax.evaluate import decoding, loss, samples, unigram
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import stacks
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

STEPS, LENGTH, VOCABULARY = 500, 128, 1_024


def docs(split: str) -> sources.Source:
    """The language reference and the docstrings of the standard library; split by document."""
    return sources.Tfds(name='python_docs', split=split)


VOCAB = tokenizers.Bpe(vocab=VOCABULARY, trained_on=docs('train'))


def rows(split: str) -> text.Text:
    return text.Text(source=docs(split), tokenizer=VOCAB, batch=16, length=LENGTH)


def experiment() -> Experiment:
    return Experiment(
        name='quickstart',
        steps=STEPS,
        data=rows('train'),
        model=decoder.gpt(
            vocab=VOCABULARY,
            width=192,
            layers=4,
            heads=6,
            length=256,
            stack=stacks.Stack(scan=False),  # Four layers compile quickly, and run faster without the loop.
        ),
        objective=language.LanguageModel(),
        # In so few steps Muon comes further than AdamW.
        optimizer=optimizers.Muon(
            schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=40, final=1e-3), weight_decay=0.1, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=100),
        evaluations=(
            unigram.Unigram(data=rows('validation'), every_steps=250),
            loss.Loss(data=rows('validation'), every_steps=250),
            samples.Samples(
                prompts=('', 'The with statement', 'Return a list of'),
                tokens=120,
                decoding=decoding.Sampling(temperature=0.6, top_p=0.95),
                every_steps=250,
            ),
        ),
    )


def smoke() -> Experiment:
    """Seconds: shows that the pieces fit, not that they learn."""
    tiny = {
        'steps': 20,
        'optimizer.schedule.warmup_steps': 5,
        'model.layers': 1,
        'model.width': 48,
        'log_every': 5,
        'evaluations.0.every_steps': 20,
        'evaluations.1.max_batches': 4,
        'evaluations.2.tokens': 16,
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
