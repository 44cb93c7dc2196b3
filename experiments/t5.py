"""T5 in all its sizes, versions 1.0 and 1.1, pretrained by cutting spans out of text.

Question: the reference point of encoder-decoder models: one objective, from 60 million to 11 billion parameters.
Source:   Raffel et al. (2019), arXiv:1910.10683: the baseline of section 3.1, with the spans of section 3.3.4; and the
          sizes of section 3.7, for a million updates of 2^11 rows each. Version 1.1 is theirs too, but of no paper:
          gated layers, an output matrix of its own, no dropout. Where this differs from the paper: the supervised tasks
          that section 3.7 mixes into pretraining are left out, and so is fine-tuning.
Target:   none that can be compared: all the paper's scores are of fine-tuned models.
Data:     C4 by TFDS, as in the paper, in 32,000 pieces; theirs were learnt from German, French and Romanian too.
Run:      python -m bigmodel_jax train experiments/t5.py --workdir gs://BUCKET/t5
Sizes:    the arms of sweep(): ... experiments/t5.py:sweep/v1_1_large ...
Check:    python -m bigmodel_jax check experiments/t5.py
          python -m bigmodel_jax train experiments/t5.py:smoke --workdir /tmp/t5_smoke
"""

from typing import NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import span_corruption, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import stacks
from bigmodel_jax.models import seq2seq
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

LENGTH, PIECES = 512, 32_000
VOCAB = 32_128  # The pieces and 100 sentinels, rounded up to a multiple of 128.
DROPOUT = 0.1


class Size(NamedTuple):
    """One of the published models."""

    layers: int  # Of each side.
    width: int
    heads: int
    head_width: int
    hidden: int
    parameters: int  # Of the released weights.


# Section 3.7.
SIZES = {
    'small': Size(6, 512, 8, 64, 2_048, 60_506_624),
    'base': Size(12, 768, 12, 64, 3_072, 222_903_552),
    'large': Size(24, 1_024, 16, 64, 4_096, 737_668_096),
    '3b': Size(24, 1_024, 32, 128, 16_384, 2_851_598_336),
    '11b': Size(24, 1_024, 128, 128, 65_536, 11_307_321_344),
}
# Of the released configurations.
SIZES_1_1 = {
    'small': Size(8, 512, 6, 64, 1_024, 76_961_152),
    'base': Size(12, 768, 12, 64, 2_048, 247_577_856),
    'large': Size(24, 1_024, 16, 64, 2_816, 783_150_080),
    'xl': Size(24, 2_048, 32, 64, 5_120, 2_849_757_184),
    'xxl': Size(24, 4_096, 64, 64, 10_240, 11_135_332_352),
}
# What section 3.7 prints, with half of the last printed digit.
PRINTED = {
    'small': ('60M', 60_000_000, 5_000_000),
    'base': ('220M', 220_000_000, 5_000_000),
    'large': ('770M', 770_000_000, 5_000_000),
    '3b': ('2.8B', 2_800_000_000, 50_000_000),
    '11b': ('11B', 11_000_000_000, 500_000_000),
}
INSTEAD = {
    'large': 'the printed dimensions, those of the released weights; 770M would count the table of embeddings twice',
    '3b': 'the printed dimensions, those of the released weights, which round to 2.9B',
}
# Table 2, first row: the baseline, fine-tuned on each.
TABLE_2 = {
    'glue/score': 83.28,
    'cnn_dm/rouge_2': 19.24,
    'squad/exact_match': 80.88,
    'super_glue/score': 71.36,
    'en_de/bleu': 26.98,
    'en_fr/bleu': 39.82,
    'en_ro/bleu': 27.65,
}


MODELS = {
    'small': seq2seq.T5_SMALL,
    'base': seq2seq.T5_BASE,
    'large': seq2seq.T5_LARGE,
    '3b': seq2seq.T5_3B,
    '11b': seq2seq.T5_11B,
}
MODELS_1_1 = {
    'small': seq2seq.T5_V1_1_SMALL,
    'base': seq2seq.T5_V1_1_BASE,
    'large': seq2seq.T5_V1_1_LARGE,
    'xl': seq2seq.T5_V1_1_XL,
    'xxl': seq2seq.T5_V1_1_XXL,
}


def dropped(model: seq2seq.Seq2Seq, rate: float) -> seq2seq.Seq2Seq:
    """With dropout on embeddings, attention weights and the outputs of sublayers (of the places in section 2.1)."""
    places = ('embedding.dropout', 'block.mixer.dropout', 'block.residual.dropout')
    return vary(model, dict.fromkeys(places, rate))


def rows(split: str, batch: int) -> span_corruption.SpanCorruption:
    """15% cut out, in spans of 3: 512 tokens are read and 114 written, of 568 tokens of text."""
    pieces = tokenizers.SentencePiece(vocab=PIECES, trained_on=sources.Tfds(name='c4/en', split='train[:1%]'))
    text = sources.Tfds(name='c4/en', split=split)
    return span_corruption.SpanCorruption(source=text, tokenizer=pieces, batch=batch, length=LENGTH)


def pretrained(name: str, seq: seq2seq.Seq2Seq, *, batch: int, steps: int) -> Experiment:
    return Experiment(
        name=f't5_{name}',
        steps=steps,
        data=rows('train', batch),
        model=vary(seq, {'stack.remat': 'full', 'dtype': 'bfloat16'}),
        objective=language.LanguageModel(),
        optimizer=optimizers.Adafactor(schedule=schedules.ConstantInverseSqrt(peak=0.01, constant_steps=10_000)),
        mesh=sharding.MeshShape(data=-1, fsdp=16),
        checkpoints=Checkpoints(every_steps=5_000),
        evaluations=(loss.Loss(data=rows('validation', batch), every_steps=5_000, max_batches=20),),
    )


def version_1_0(name: str, *, batch: int, steps: int) -> Experiment:
    size = SIZES[name]
    base = pretrained(name, dropped(MODELS[name], DROPOUT), batch=batch, steps=steps)
    printed, value, half = PRINTED[name]
    of_size = (
        claims.Parameters(where='released weights', value=size.parameters),
        claims.PrintedParameters(
            where='section 3.7',
            value=value,
            tolerance=half,
            printed=printed,
            exact=size.parameters,
            instead=INSTEAD.get(name, ''),
        ),
        *shapes('section 3.7', size),
    )
    return vary(base, {'claims': (*of_size, *recipe())})


def version_1_1(name: str) -> Experiment:
    size = SIZES_1_1[name]
    base = pretrained(f'v1_1_{name}', MODELS_1_1[name], batch=2**11, steps=10**6)
    counted = claims.Parameters(where='released weights', value=size.parameters)
    return vary(base, {'claims': (counted, *shapes('released weights', size))})


def shapes(where: str, size: Size) -> tuple[claims.Claim, ...]:
    queries = (size.layers, size.width, size.heads, size.head_width)
    return (
        claims.Shape(where=where, parameter='encoder.layers.attention.query', value=queries),
        claims.Shape(where=where, parameter='decoder.layers.ffn.up', value=(size.layers, size.width, size.hidden)),
    )


def recipe() -> tuple[claims.Claim, ...]:
    """What the paper says of the training of every size."""
    return (
        claims.Setting(where='section 3.1.1', path='model.block.residual.dropout', value=0.1),
        claims.Setting(where='section 3.1.2', path='data.length', value=512),
        claims.LearningRate(where='section 3.1.2', step=1, value=0.01),
        claims.LearningRate(where='section 3.1.2', step=10_000, value=0.01),
        claims.Setting(where='section 3.1.4', path='data.corrupted', value=0.15),
        claims.Setting(where='section 3.3.4', path='data.span', value=3.0),
    )


def experiment() -> Experiment:
    """The baseline, T5-Base for 2^19 updates of 2^16 tokens."""
    base = version_1_0('base', batch=128, steps=2**19)
    not_here = 'it is a score after fine-tuning, which is not part of this experiment'
    more = (
        claims.Setting(where='section 3.1.2', path='steps', value=524_288),
        claims.Setting(where='section 3.1.2', path='data.batch', value=128),
        claims.Product(where='section 3.1.2', of='rows x length = 2^16 tokens', factors=(128, 512), value=2**16),
        *(
            claims.Measured(where='table 2', metric=metric, value=value, tolerance=0.005, missing=not_here)
            for metric, value in TABLE_2.items()
        ),
    )
    return vary(base, {'name': 't5_baseline', 'claims': (*base.claims, *more)})


def sweep() -> dict[str, Experiment]:
    """Every size of version 1.0 as section 3.7 trains them, and of version 1.1."""
    longer = (
        claims.Setting(where='section 3.7', path='data.batch', value=2**11),
        claims.Setting(where='section 3.7', path='steps', value=10**6),
    )
    originals = {name: version_1_0(name, batch=2**11, steps=10**6) for name in SIZES}
    return {
        **{name: vary(each, {'claims': (*each.claims, *longer)}) for name, each in originals.items()},
        **{f'v1_1_{name}': version_1_1(name) for name in SIZES_1_1},
    }


def smoke() -> Experiment:
    """Seconds, on data that needs no download: the same code at 1/1,000 of the size, on one device."""
    docs = sources.Tfds(name='python_docs', split='train')
    changes = {
        'steps': 10,
        'data': span_corruption.SpanCorruption(source=docs, tokenizer=tokenizers.Bytes(), batch=8, length=64),
        'evaluations': (),
        'model.vocab': 384,
        'model.width': 48,
        'model.encoder_layers': 1,
        'model.decoder_layers': 1,
        'model.stack': stacks.Stack(scan=False),
        'model.block.mixer.heads': 4,
        'model.block.mixer.head_width': 8,
        'model.block.mixer.dropout': 0.0,
        'model.block.residual.dropout': 0.0,
        'model.embedding.dropout': 0.0,
        'model.block.ffn.hidden': 96,
        'model.positions.heads': 4,
        'mesh': sharding.MeshShape(data=1),
        'watch.log_every': 5,
        'claims': (),  # They are of the full size.
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
