"""A recurrent language model, trained by truncated back-propagation through time over contiguous text.

Question: does a gated linear recurrence learn to write, and does it help that its state passes from batch to batch?
Source:   Griffin's recurrent blocks (De et al., 2024, arXiv:2402.19427) in the stack that Transformers use; truncated
          back-propagation as in Mikolov et al. (2010). Every Python installation carries the text.
Target:   validation loss below the same model's whose state starts at 0 in each batch: arm 'reset' of sweep().
Run:      python -m bigmodel_jax train experiments/recurrent_lm.py --workdir runs/recurrent_lm

Row r of the batch reads its own passage of the text from beginning to end, `length` tokens in each step; the next batch
goes on where the last one ended. The state of the layers is part of the state of the run (TrainState.model_state), so
that a resumed run goes on exactly. In evaluation and sampling it starts at 0.
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.data.text.streams import contiguous
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import decoding, samples
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import blocks, embeddings, ffn, norms, recurrence
from bigmodel_jax.models import decoder, recurrent
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

LENGTH, ROWS = 128, 16


def docs(split: str) -> records.Source:
    """The language reference and the docstrings of the standard library; split by document."""
    return sources.Tfds(name='python_docs', split=split)


VOCABULARY = tokenizers.Bytes()


def model(kind: type[decoder.Decoder]) -> decoder.Decoder:
    rms = norms.RmsNorm()
    block = blocks.Block(
        mixer=recurrence.GatedRecurrence(heads=4), ffn=ffn.Gated(hidden=384), residual=blocks.PreNorm(norm=rms)
    )
    return kind(
        vocab=VOCABULARY.upper_bound,
        width=192,
        layers=4,
        block=block,
        positions=None,
        norm=rms,
        embedding=embeddings.Embedding(tied=True),
    )


def experiment() -> Experiment:
    validation = text.Text(source=docs('validation'), tokenizer=VOCABULARY, batch=ROWS, length=4 * LENGTH)
    return Experiment(
        name='recurrent_lm',
        steps=1_500,
        data=contiguous.Contiguous(source=docs('train'), tokenizer=VOCABULARY, batch=ROWS, length=LENGTH),
        model=model(recurrent.CarryingDecoder),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=3e-3, warmup_steps=100), weight_decay=0.1, clip_norm=1.0
        ),
        checkpoints=Checkpoints(every_steps=250),
        evaluations=(
            loss.Loss(data=validation, every_steps=250, max_batches=8),
            samples.Samples(
                prompts=('The with statement', 'Return a list of'),
                tokens=160,
                decoding=decoding.Sampling(temperature=0.7),
                every_steps=500,
            ),
        ),
    )


def sweep() -> dict[str, Experiment]:
    """The same with the state carried over, and with a state that starts at 0 in each batch."""
    reset = {'name': 'recurrent_lm_reset', 'model': model(decoder.Decoder)}
    return {'carried': experiment(), 'reset': vary(experiment(), reset)}


def smoke() -> Experiment:
    """Under a minute: shows that the pieces fit, not that they learn."""
    tiny = {
        'steps': 20,
        'data.length': 32,
        'data.batch': 8,
        'evaluations.0.data.length': 64,
        'evaluations.0.data.batch': 8,
        'model.layers': 2,
        'model.width': 32,
        'model.block.ffn.hidden': 64,
        'optimizer.schedule.warmup_steps': 5,
        'watch.log_every': 5,
        'evaluations.0.every_steps': 20,
        'evaluations.0.max_batches': 2,
        'evaluations.1.every_steps': 20,
        'evaluations.1.tokens': 16,
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
