"""The Transformer, base and big, English to German, with every row of table 3.

Question: what of "Attention Is All You Need" is there again, number by number?
Source:   Vaswani et al. (2017), arXiv:1706.03762; sections and tables below are theirs. They do not say how weights are
          drawn: here by Glorot and Bengio, embeddings with deviation 1 / sqrt(width), as Tensor2Tensor does.
Target:   27.3 BLEU on newstest2014 for base and 28.4 for big (table 2); table 3 on newstest2013, without averaging.
Scores:   theirs are of multi-bleu, on tokens split at hyphens (github.com/tensorflow/tensor2tensor/issues/61); ours are
          sacrebleu's, which are lower. Perplexities are per piece of a vocabulary that was not released.
Counts:   no vocabulary gives all printed counts: rows of width 512 want one near 41,000, big one near 36,000, and
          section 5.1 says about 37,000, which they have here. What does not depend on the vocabulary agrees.
Data:     TFDS wmt14_translate/de-en: train, newstest2013 as validation, newstest2014 as test.
Run:      python -m bigmodel_jax train experiments/vaswani2017.py --workdir gs://BUCKET/base
          python -m bigmodel_jax evaluate gs://BUCKET/base --average 5
          ... experiments/vaswani2017.py:sweep/big ... --average 20
Check:    python -m bigmodel_jax check experiments/vaswani2017.py
          python -m bigmodel_jax train experiments/vaswani2017.py:smoke --workdir /tmp/vaswani_smoke
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import claims, config
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import pairs, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import decoding, translation
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import attention, positions
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import seq2seq
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import collective_matmul, sharding
from bigmodel_jax.sweeps.sweep import Sweep

VOCAB, WARMUP_STEPS = 37_000, 4_000
POSITIONS = ('*coder_positions.*',)  # Table 3 counts no positions; sinusoids have no parameters.
SCORER = 'multi-bleu, tokens split at hyphens'
UNRELEASED = 'its perplexities are per piece of a vocabulary that was not released'
XAVIER = weights.Xavier()
PERPLEXITY, BLEU = 'validation/perplexity', 'dev/bleu'  # On newstest2013, the columns of table 3.


# ---- queries and keys narrower than values: rows (B) -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrow(attention.Attention):
    """Attention whose queries and keys have `key_width` channels in each head, and its values width / heads."""

    key_width: config.Positive

    def build(self, name: str | None = None) -> nn.Module:
        return NarrowModule(self, name=name)


class NarrowModule(attention.AttentionModule):
    """Queries and keys are filled up with zeros, so that kernels and caches meet heads of one width."""

    config: Narrow

    def _project(self, x_BTD: jax.Array, *names: str) -> list[jax.Array]:
        return [super(NarrowModule, self)._project(x_BTD, 'value')[0] if name == 'value' else self._narrow(x_BTD, name)
                for name in names]  # fmt: skip

    def _narrow(self, x_BTD: jax.Array, name: str) -> jax.Array:
        c, D = self.config, x_BTD.shape[-1]
        heads, wide = self._heads(name), c.width_of_head(D)
        axes = {'embed': D, **heads, 'head': c.key_width}
        matrix_DHK = weights.weight(self, name, axes, init=c.init, inputs=('embed',), dtype=x_BTD.dtype)
        (x_BTHK,) = collective_matmul.allgather_matmul(x_BTD, ('BTD,DHK->BTHK',), (matrix_DHK,), cuts=tuple(heads))
        if name == 'query':  # The scores are divided by sqrt(wide), and should be by sqrt(key_width).
            x_BTHK = x_BTHK * jnp.asarray((wide / c.key_width) ** 0.5, x_BTHK.dtype)
        return jnp.pad(x_BTHK, ((0, 0), (0, 0), (0, 0), (0, wide - c.key_width)))


# ---- the recipe of section 5 -------------------------------------------------------------------------------------


def side(split: str, language_of: str) -> records.Source:
    return sources.TextField(source=sources.Tfds(name='wmt14_translate/de-en', split=split), field=language_of)


# Shared by both languages (5.1).
PIECES = tokenizers.Bpe(vocab=VOCAB, trained_on=sources.Joined(parts=(side('train', 'en'), side('train', 'de'))))


def rows(split: str) -> pairs.Pairs:
    """About 25,000 tokens on each side (5.1): 96 rows of 256, which divide over many devices."""
    return pairs.Pairs(source=side(split, 'en'), target=side(split, 'de'), tokenizer=PIECES, batch=96, length=256)


def score(split: str, name: str, *, every_steps: int) -> translation.Translation:
    """Beam search as in section 6.1; up to 50 tokens more than the source has."""
    return translation.Translation(
        source=side(split, 'en'),
        target=side(split, 'de'),
        decoding=decoding.Beam(beams=4, length_penalty=0.6),
        every_steps=every_steps,
        name=name,
    )


def transformer(
    name: str = 'vaswani2017',
    *,
    width: int = 512,
    hidden: int = 2_048,
    heads: int = 8,
    layers: int = 6,
    dropout: float = 0.1,
    steps: int = 100_000,
) -> Experiment:
    """Sections 5 and 6.1; base unless said otherwise."""
    return Experiment(
        name=name,
        steps=steps,
        data=rows('train'),
        model=seq2seq.transformer(
            vocab=VOCAB, width=width, hidden=hidden, heads=heads, layers=layers, dropout=dropout
        ),
        objective=language.LanguageModel(label_smoothing=0.1),
        # Adam (5.3), whose schedule is equation 3.
        optimizer=optimizers.AdamW(
            schedule=schedules.InverseSqrt(peak=(width * WARMUP_STEPS) ** -0.5, warmup_steps=WARMUP_STEPS),
            b1=0.9,
            b2=0.98,
            eps=1e-9,
        ),
        mesh=sharding.MeshShape(data=-1),
        # Theirs are of every 10 minutes (6.1), which are 1,500 steps of 0.4 s; so many divide the run evenly.
        checkpoints=Checkpoints(every_steps=1_250, keep_last=5),
        evaluations=(
            loss.Loss(data=rows('validation'), every_steps=5_000),
            score('validation', 'dev', every_steps=25_000),
            score('test', 'test', every_steps=steps),
        ),
    )


# ---- tables 2 and 3 ----------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What table 3 prints of an arm, and how many parameters follow from it."""

    perplexity: float
    bleu: float
    millions: int | None = None  # None: left blank, as equal to base or not said.
    more: int | None = None  # Parameters more than base, where the vocabulary does not matter.
    parameters: int | None = None  # With VOCAB entries, where it does.


BASE = 63_045_632  # With VOCAB entries.
ROWS = {
    'base': Row(4.92, 25.8, 65, parameters=BASE),
    'A_heads1': Row(5.29, 24.9, more=0),
    'A_heads4': Row(5.00, 25.5, more=0),
    'A_heads16': Row(4.91, 25.8, more=0),
    'A_heads32': Row(5.01, 25.4, more=0),
    'B_keys16': Row(5.16, 25.1, 58, more=-7_077_888),
    'B_keys32': Row(5.01, 25.4, 60, more=-4_718_592),
    'C_layers2': Row(6.11, 23.7, 36, more=-29_401_088),
    'C_layers4': Row(5.19, 25.3, 50, more=-14_700_544),
    'C_layers8': Row(4.88, 25.5, 80, more=14_700_544),
    'C_width256': Row(5.75, 24.5, 28, parameters=26_816_512),
    'C_width1024': Row(4.66, 26.0, 168, parameters=163_815_424),
    'C_hidden1024': Row(5.12, 25.4, 53, more=-12_595_200),
    'C_hidden4096': Row(4.75, 26.2, 90, more=25_190_400),
    'D_dropout0': Row(5.77, 24.6, more=0),
    'D_dropout2': Row(4.95, 25.5, more=0),
    'D_smoothing0': Row(4.67, 25.3, more=0),
    'D_smoothing2': Row(5.47, 25.7, more=0),
    'E_learned': Row(4.92, 25.7, parameters=BASE),
    'big': Row(4.33, 26.4, 213, parameters=214_171_648),
}


def row_claims(arm: str) -> tuple[claims.Claim, ...]:
    """What table 3 says of an arm."""
    row, where = ROWS[arm], 'table 3'
    printed = f'{row.millions}M' if row.millions else ''
    found: list[claims.Claim] = []
    if row.parameters is not None:
        found.append(claims.Parameters(where='tables 3, 5.1', value=row.parameters, printed=printed, without=POSITIONS))
    if row.more is not None:
        difference = f'{printed} - 65M' if printed else ''
        found.append(claims.ParametersMore(where=where, than='base', value=row.more, printed=difference))
    if row.millions is not None:
        printed_count = claims.PrintedParameters(
            where=where,
            value=row.millions * 10**6,
            tolerance=500_000,
            printed=printed,
            exact=row.parameters or BASE + (row.more or 0),
            without=POSITIONS,
            instead=f'the {VOCAB:,} entries of section 5.1',
        )
        found.append(printed_count)
    return (
        *found,
        # Half of the last digit.
        claims.Measured(
            where=where, metric=PERPLEXITY, value=row.perplexity, tolerance=0.005, missing=UNRELEASED
        ),
        claims.Measured(where=where, metric=BLEU, value=row.bleu, tolerance=0.05, signature=SCORER),
    )


def recipe_claims(*, width: int, heads: int, hidden: int, dropout: float, steps: int) -> tuple[claims.Claim, ...]:
    """What sections 3, 5 and 6.1 say of base and of big."""

    def rate(step: int) -> claims.LearningRate:
        value = width**-0.5 * min(step**-0.5, step * WARMUP_STEPS**-1.5)
        return claims.LearningRate(where='equation 3', step=step, value=value)

    settings: dict[str, dict[str, Any]] = {
        'table 3': {
            'model.encoder_layers': 6, 'model.decoder_layers': 6, 'model.width': width, 'steps': steps,
            'model.block.ffn.hidden': hidden, 'model.block.mixer.heads': heads,
        },
        'section 3.4': {'model.embedding.tied': True, 'model.embedding.scaled': True},
        'section 5.1': {'model.vocab': 37_000},
        'section 5.3': {'optimizer.b1': 0.9, 'optimizer.b2': 0.98, 'optimizer.eps': 1e-9},
        'section 5.4': {
            'model.block.residual.dropout': dropout, 'model.embedding.dropout': dropout,
            'objective.label_smoothing': 0.1,
        },
        'section 6.1': {
            'evaluations.2.decoding.beams': 4, 'evaluations.2.decoding.length_penalty': 0.6,
            'evaluations.2.longer_by': 50, 'checkpoints.keep_last': 5 if width == 512 else 20,
        },
    }  # fmt: skip
    return (
        *(
            claims.Setting(where=where, path=path, value=value)
            for where, values in settings.items()
            for path, value in values.items()
        ),
        claims.Shape(
            where='table 3', parameter='decoder.layers.cross.query', value=(6, width, heads, 64)
        ),  # d_k = d_v = 64.
        claims.TokensPerStep(where='section 5.1', value=25_000, relative=0.02),  # 'Approximately'.
        *map(rate, (1, WARMUP_STEPS, steps)),
    )


def table2_claim(*, bleu: float, averaged: int) -> claims.Measured:
    return claims.Measured(
        where='table 2', metric=f'test_average{averaged}/bleu', value=bleu, tolerance=0.05, signature=SCORER
    )


ONE_VOCABULARY = claims.OneVocabulary(
    where='table 3',
    arms=tuple((arm, row.millions * 10**6) for arm, row in ROWS.items() if row.millions is not None),
    instead=f'the {VOCAB:,} entries of section 5.1',
)


def experiment() -> Experiment:
    """Base, as in table 2 and in the first row of table 3."""
    recipe = recipe_claims(width=512, heads=8, hidden=2_048, dropout=0.1, steps=100_000)
    every = (*row_claims('base'), ONE_VOCABULARY, *recipe, table2_claim(bleu=27.3, averaged=5))
    return vary(transformer(), {'claims': every})


def big() -> Experiment:
    """The last row of table 3, and of table 2."""
    how = {'width': 1_024, 'hidden': 4_096, 'heads': 16}
    recipe = recipe_claims(**how, dropout=0.3, steps=300_000)
    changes = {
        'claims': (*row_claims('big'), *recipe, table2_claim(bleu=28.4, averaged=20)),
        # 10 minutes are 600 steps of 1.0 s (5.2).
        'checkpoints': Checkpoints(every_steps=600, keep_last=20),
    }
    return vary(transformer('big', **how, dropout=0.3, steps=300_000), changes)


def sweep() -> Sweep:
    """Table 3, one seed as theirs; `--seeds` adds more. Both of its columns of results stand beside ours."""
    arms = table3()
    return Sweep(
        arms=arms,
        baseline='base',
        metric=BLEU,
        seeds=(0,),
        columns={name: {arm: printed(each, name) for arm, each in arms.items()} for name in (PERPLEXITY, BLEU)},
    )


def printed(arm: Experiment, metric: str) -> float:
    """What table 3 prints of an arm."""
    (found,) = (each.value for each in arm.claims if isinstance(each, claims.Measured) and each.metric == metric)
    return found


def table3() -> dict[str, Experiment]:
    """Its rows."""
    both = ('model.block.residual.dropout', 'model.embedding.dropout')
    changes: dict[str, dict[str, Any]] = {
        **{f'A_heads{heads}': {'model.block.mixer.heads': heads} for heads in (1, 4, 16, 32)},
        **{
            f'B_keys{keys}': {'model.block.mixer': Narrow(heads=8, key_width=keys, init=XAVIER)}
            for keys in (16, 32)
        },
        **{
            f'C_layers{layers}': {'model.encoder_layers': layers, 'model.decoder_layers': layers}
            for layers in (2, 4, 8)
        },
        **{f'C_hidden{hidden}': {'model.block.ffn.hidden': hidden} for hidden in (1_024, 4_096)},
        **{f'D_dropout{rate}': dict.fromkeys(both, rate / 10) for rate in (0, 2)},
        **{f'D_smoothing{rate}': {'objective.label_smoothing': rate / 10} for rate in (0, 2)},
        'E_learned': {'model.positions': positions.Learned(length=1_024)},
    }
    found = {'base': vary(experiment(), {'name': 'base'}), 'big': big()}
    found |= {f'C_width{width}': transformer(width=width) for width in (256, 1_024)}
    found |= {arm: vary(transformer(), each) for arm, each in changes.items()}
    named = {'base', 'big'}  # Their claims are more than a row.
    return {
        arm: found[arm] if arm in named else vary(found[arm], {'name': arm, 'claims': row_claims(arm)}) for arm in ROWS
    }


def smoke() -> Experiment:
    """Seconds: sentences of three words and the same words in reverse, so that nothing need be downloaded."""
    words = ('sun', 'moon', 'sea', 'wind', 'tree', 'stone')
    sentences = [' '.join(chosen) for chosen in itertools.product(words, repeat=3)]
    reversals = [' '.join(reversed(sentence.split())) for sentence in sentences]

    def part(texts: list[str], *, held_out: bool) -> records.Source:
        return sources.Texts(texts=tuple(text for i, text in enumerate(texts) if (i % 20 == 0) == held_out))

    def both(*, held_out: bool) -> pairs.Pairs:
        sides = part(sentences, held_out=held_out), part(reversals, held_out=held_out)
        tokenizer = tokenizers.Bpe(vocab=300, trained_on=sources.Texts(texts=words))
        return pairs.Pairs(source=sides[0], target=sides[1], tokenizer=tokenizer, batch=8, length=64)

    changes = {
        'name': 'vaswani2017_smoke',
        'steps': 20,
        'claims': (),
        'data': both(held_out=False),
        'model': seq2seq.transformer(vocab=300, width=32, hidden=64, heads=2, layers=1, dropout=0.1),
        'optimizer.schedule.warmup_steps': 10,
        'watch.log_every': 5,
        'checkpoints': Checkpoints(every_steps=5, keep_last=2),
        'evaluations.0.data': both(held_out=True),
    }
    for place in (1, 2):
        at = f'evaluations.{place}'
        changes |= {f'{at}.source': part(sentences, held_out=True), f'{at}.target': part(reversals, held_out=True)}
        changes |= {f'{at}.every_steps': 20, f'{at}.longer_by': 8}
    return vary(transformer(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
