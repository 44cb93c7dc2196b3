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

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.config import vary
from bigmodel_jax.data import batches, records, sources
from bigmodel_jax.data.text import text, tokenizers, tokens
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import decoding, samples
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import blocks, embeddings, ffn, norms, recurrence, stacks
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

LENGTH, ROWS = 128, 16
CARRIED = 'carried'  # The collection of the module that holds the state between batches.


# ---- contiguous text --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contiguous(text.Text):
    """Text whose batch k + 1 goes on where batch k ended, row by row; 'starts' [n] is 1 where a passage begins."""

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {**super().fields, 'starts': batches.Field((), np.dtype(np.int32), (), 2)}

    def build(self, seed: int) -> 'ContiguousBatches':
        corpus = tokens.tokenized(self.source, self.tokenizer)
        if corpus.pairs < self.batch * self.length:
            raise config.InputError(
                f'The text has {corpus.pairs} tokens, too few for {self.batch} rows of length={self.length}. '
                'Use more text, a smaller length or fewer rows.'
            )
        examples = Pieces(corpus, self.length, self.fields, rows=self.batch)
        return ContiguousBatches(examples, rows=self.batch, seed=seed)


class Pieces(text.TokenExamples):
    """Example r * pieces + c is piece c of passage r."""

    def __init__(self, corpus: tokens.Corpus, length: int, fields: Mapping[str, batches.Field], *, rows: int):
        super().__init__(corpus, length, fields)
        self.rows, self.pieces = rows, corpus.pairs // rows // length
        self.fingerprint = {**self.fingerprint, 'contiguous rows': rows}

    def __len__(self) -> int:
        return self.rows * self.pieces

    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> batches.Batch:
        positions = indices[:, None] * self.length + np.arange(self.length)
        found = self._batch(positions, np.ones(positions.shape, bool))
        return found | {'starts': (indices % self.pieces == 0).astype(np.int32)}


class ContiguousBatches(text.TextBatches):
    """The same order in each epoch: position k * rows + r of the stream is piece k of passage r."""

    examples: Pieces

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        pieces = self.examples.pieces
        return positions % self.rows * pieces + positions // self.rows % pieces


# ---- the state between batches ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarryingDecoder(decoder.Decoder):
    """A Decoder of recurrent layers whose state after one training batch is its state before the next."""

    def build(self, name: str | None = None) -> nn.Module:
        return CarryingDecoderModule(self, name=name)


class CarryingDecoderModule(decoder.DecoderModule):
    """Keeps the state of the layers in the collection 'carried', which only training changes."""

    config: CarryingDecoder

    def features(
        self, batch: Mapping[str, jax.Array], state: stacks.State | None = None
    ) -> tuple[jax.Array, stacks.State | None]:
        if state is not None or not self.is_mutable_collection(CARRIED):
            return super().features(batch, state)
        rows, length = batch['inputs'].shape
        zeros = self.config.initial_state(rows, length)
        before = self.get_variable(CARRIED, 'state', zeros)
        if jax.tree.map(jnp.shape, before) != jax.tree.map(jnp.shape, zeros):
            raise config.InputError(
                f'The carried state is not of the {rows} rows that are read at a time; '
                'CarryingDecoder needs gradients=WholeBatch().'
            )
        starts_B = batch['starts'] == 1
        # The rows are on axis 1, after the layers.
        before = jax.tree.map(
            lambda leaf: jnp.where(starts_B.reshape(1, -1, *[1] * (leaf.ndim - 2)), 0, leaf).astype(leaf.dtype), before
        )
        x_BTD, after = super().features(batch, before)
        self.put_variable(CARRIED, 'state', zeros if self.is_initializing() else after)
        return x_BTD, None


# ---- the experiment ---------------------------------------------------------------------------------------------


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
        data=Contiguous(source=docs('train'), tokenizer=VOCABULARY, batch=ROWS, length=LENGTH),
        model=model(CarryingDecoder),
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
