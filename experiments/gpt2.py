"""GPT-2 124M on web text, as published, on a slice of TPU v5e; and the paper's other three sizes.

Question: the reference point that every other language model here is compared with.
Source:   Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", sections 2.1 to 2.3 and table 2.
          They give no optimizer settings; these are GPT-3's for its smallest model (Brown et al., 2020,
          arXiv:2005.14165, table 2.1 and appendix B), with the batch that the paper gives: 512 rows of 1,024 tokens.
Target:   none here yet: WebText was never released. On OpenWebText nanoGPT reports a validation loss of 2.85.
Data:     lm1b stands in for WebText, as TFDS can download it; any TFDS name, text files or JSON lines will do.
Run:      python -m bigmodel_jax train experiments/gpt2.py --workdir gs://BUCKET/gpt2
Sizes:    the arms of sweep(), under the names of table 2: ... experiments/gpt2.py:sweep/345M ...
Check:    python -m bigmodel_jax check experiments/gpt2.py
          python -m bigmodel_jax train experiments/gpt2.py:smoke --workdir /tmp/gpt2_smoke
"""

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

LENGTH = 1_024
VOCAB = 50_257
UNRELEASED = 'the paper trained on WebText, which was never released'
# Table 2: layers, width; and the parameters of the weights that were released.
SIZES = {
    '117M': (12, 768, 124_439_808),
    '345M': (24, 1_024, 354_823_168),
    '762M': (36, 1_280, 774_030_080),
    '1542M': (48, 1_600, 1_557_611_200),
}
# Table 3, in its order and without the two columns of the Children's Book Test; zero-shot.
METRICS = (
    'lambada/perplexity',
    'lambada/accuracy',
    'wikitext2/perplexity',
    'ptb/perplexity',
    'enwik8/bits_per_byte',
    'text8/bits_per_character',
    'wikitext103/perplexity',
    'one_billion/perplexity',
)
TABLE_3 = {
    '117M': (35.13, 45.99, 29.41, 65.85, 1.16, 1.17, 37.50, 75.20),
    '345M': (15.60, 55.48, 22.76, 47.33, 1.01, 1.06, 26.37, 55.72),
    '762M': (10.87, 60.12, 19.93, 40.31, 0.97, 1.02, 22.05, 44.575),
    '1542M': (8.63, 63.24, 18.34, 35.76, 0.93, 0.98, 17.48, 42.16),
}


def rows(source: records.Source, *, vocab: int = VOCAB) -> text.Text:
    """Byte-level BPE as in section 2.2, trained on the data at hand."""
    train = sources.Tfds(name='lm1b', split='train[:1%]')
    return text.Text(source=source, tokenizer=tokenizers.Bpe(vocab=vocab, trained_on=train), batch=512, length=LENGTH)


def experiment() -> Experiment:
    return Experiment(
        name='gpt2',
        steps=19_073,  # 10 billion tokens at 512 x 1,024 each.
        data=rows(sources.Tfds(name='lm1b', split='train')),
        # 50,257 rounded up to a multiple of 128, so that it shards.
        model=vary(
            decoder.GPT2_124M,
            {'vocab': 50_304, 'dtype': 'bfloat16', 'stack.remat': 'dots'},
        ),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=6e-4, warmup_steps=715, final=6e-5),  # 375M tokens of warm-up.
            b2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        mesh=sharding.MeshShape(data=-1),
        checkpoints=Checkpoints(every_steps=1_000, keep_last=2, keep_every=5_000),
        evaluations=(
            loss.Loss(data=rows(sources.Tfds(name='lm1b', split='test')), every_steps=500, max_batches=20),
        ),
        claims=recipe('117M'),
    )


def recipe(name: str) -> tuple[claims.Claim, ...]:
    """What the paper says of a size, but for its parameters."""
    layers, width, _ = SIZES[name]
    return (
        claims.Setting(where='section 2.3', path='data.tokenizer.vocab', value=VOCAB),
        claims.Setting(where='section 2.3', path='data.length', value=LENGTH),
        claims.Setting(where='section 2.3', path='data.batch', value=512),
        claims.TokensPerStep(where='section 2.3', value=512 * LENGTH),
        claims.Setting(where='table 2', path='model.layers', value=layers),
        claims.Setting(where='table 2', path='model.width', value=width),
    )


def sweep() -> dict[str, Experiment]:
    """The sizes of table 2 with the 50,257 entries of their vocabulary, so that every parameter is one of theirs."""
    # Peaks: those of GPT-3's models of the nearest size (its table 2.1).
    return {
        '117M': size('117M', decoder.GPT2_124M, peak=6e-4),
        '345M': size('345M', decoder.GPT2_355M, peak=3e-4),
        '762M': size('762M', decoder.GPT2_774M, peak=2.5e-4),
        '1542M': size('1542M', decoder.GPT2_1558M, peak=2e-4),
    }


def size(name: str, model: decoder.Decoder, *, peak: float) -> Experiment:
    measured = [
        claims.Measured(where='table 3', metric=metric, value=value, tolerance=0.005, missing=UNRELEASED)
        for metric, value in zip(METRICS, TABLE_3[name])
    ]
    counted = (
        claims.Parameters(where='released weights', value=SIZES[name][2]),
        claims.PrintedParameters(
            where='table 2',
            value=int(name[:-1]) * 10**6,
            tolerance=500_000,
            printed=name,
            exact=SIZES[name][2],
            instead='the dimensions of table 2, which are those of the released weights',
        ),
    )
    changes = {
        'name': f'gpt2_{name}',
        'model': vary(model, {'dtype': 'bfloat16', 'stack.remat': 'dots'}),
        'optimizer.schedule.peak': peak,
        'optimizer.schedule.final': peak / 10,
        'claims': (*counted, *recipe(name), *measured),
    }
    return vary(experiment(), changes)


def smoke() -> Experiment:
    """A minute on a laptop, on data that needs no download: the same code at 1/1000 of the size."""
    train = sources.Tfds(name='python_docs', split='train')
    tokenizer = tokenizers.Bpe(vocab=512, trained_on=train)
    changes = {
        'steps': 20,
        'optimizer.schedule.warmup_steps': 5,
        'data': text.Text(source=train, tokenizer=tokenizer, batch=8, length=64),
        'evaluations.0.data': text.Text(
            source=sources.Tfds(name='python_docs', split='validation'), tokenizer=tokenizer, batch=8, length=64
        ),
        'evaluations.0.max_batches': 4,
        'model.vocab': 512,
        'model.width': 48,
        'model.layers': 2,
        'model.block.ffn.hidden': 192,
        'watch.log_every': 5,
        'claims': (),  # They are of the full size.
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
