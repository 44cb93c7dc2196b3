"""Mixtral 8x7B: routed experts of which each token sees two, balanced by an auxiliary loss.

Question: what do eight experts for the price of two give, and what does balancing them change?
Source:   Jiang et al. (2024), arXiv:2401.04088, section 2 and table 1. The balancing loss is that of Fedus et al.
          (2021), arXiv:2101.03961, equations 4 to 6, as in the released configuration. The paper says nothing of data
          or optimizer: those here are of Llama 2 (Touvron et al., 2023, arXiv:2307.09288, section 2.2).
Target:   none that can be compared: neither the data nor the recipe were published. The arms compare with one another.
Data:     C4 by TFDS stands in for it; any TFDS name, text files or JSON lines will do.
Run:      python -m bigmodel_jax train experiments/mixtral.py --workdir gs://BUCKET/mixtral
Check:    python -m bigmodel_jax check experiments/mixtral.py
          python -m bigmodel_jax train experiments/mixtral.py:smoke --workdir /tmp/mixtral_smoke
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

VOCAB, LENGTH, EXPERTS = 32_000, 32_768, 8
ROUTED = ('*.ffn.gate', '*.ffn.up', '*.ffn.down')  # The parameters of the experts; the router is everyone's.
# But for the width of a head and the experts that a token sees.
TABLE_1 = {
    'model.width': 4_096,
    'model.layers': 32,
    'model.block.ffn.hidden': 14_336,
    'model.block.mixer.heads': 32,
    'model.block.mixer.kv_heads': 8,
    'model.vocab': VOCAB,
    'model.block.ffn.experts': EXPERTS,
    'data.length': LENGTH,
}


def rows(source: records.Source) -> text.Text:
    """128 rows of the whole context are 4.2 million tokens."""
    train = sources.Tfds(name='c4/en', split='train[:1%]')
    return text.Text(source=source, tokenizer=tokenizers.Bpe(vocab=VOCAB, trained_on=train), batch=128, length=LENGTH)


def experiment() -> Experiment:
    return Experiment(
        name='mixtral',
        steps=100_000,
        data=rows(sources.Tfds(name='c4/en', split='train')),
        model=vary(decoder.MIXTRAL_8X7B, {'dtype': 'bfloat16', 'stack.remat': 'full'}),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=3e-4, warmup_steps=2_000, final=3e-5),
            b2=0.95,
            eps=1e-5,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        mesh=sharding.MeshShape(data=-1, fsdp=16, expert=EXPERTS),
        checkpoints=Checkpoints(every_steps=500),
        evaluations=(
            loss.Loss(
                data=rows(sources.Tfds(name='c4/en', split='validation')), every_steps=1_000, max_batches=20
            ),
        ),
        claims=published(),
    )


def published() -> tuple[claims.Claim, ...]:
    """What the paper says of its model."""
    return (
        *dimensions(),
        claims.ActiveParameters(
            where='section 1', value=12_879_925_248, printed='13B', used=2, experts=EXPERTS, routed=ROUTED
        ),
        claims.Setting(where='table 1', path='model.block.ffn.top_k', value=2),
        claims.Product(where='table 1', of='heads x head_dim = dim', factors=(32, 128), value=4_096),
    )


def dimensions() -> tuple[claims.Claim, ...]:
    """What holds however many experts a token sees."""
    settings = (claims.Setting(where='table 1', path=path, value=value) for path, value in TABLE_1.items())
    return (claims.Parameters(where='section 1', value=46_702_792_704, printed='47B'), *settings)


def sweep() -> dict[str, Experiment]:
    """The paper's model; without the balancing loss; and with one expert for each token, as Fedus et al. have it."""
    return {
        'top_2': experiment(),
        'unbalanced': vary(experiment(), {'name': 'mixtral_unbalanced', 'model.block.ffn.balance': 0.0}),
        'top_1': vary(experiment(), {'name': 'mixtral_top_1', 'model.block.ffn.top_k': 1, 'claims': dimensions()}),
    }


def smoke() -> Experiment:
    """Seconds, on data that needs no download: the same code at 1/100,000 of the size, on one device."""

    def docs(split: str) -> text.Text:
        source = sources.Tfds(name='python_docs', split=split)
        return text.Text(source=source, tokenizer=tokenizers.Bytes(), batch=8, length=64)

    changes = {
        'steps': 10,
        'optimizer.schedule.warmup_steps': 5,
        'data': docs('train'),
        'evaluations.0.data': docs('validation'),
        'evaluations.0.max_batches': 2,
        'model': decoder.mixtral(vocab=320, width=48, layers=2, heads=4, kv_heads=2, hidden=64, experts=4),
        'mesh': sharding.MeshShape(data=1),
        'watch.log_every': 5,
        'claims': (),  # They are of the full size.
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
