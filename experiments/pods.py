"""Five large models on the slices of a pod that they are usually compared on: what does a step cost there?

Question: peak memory, traffic and time of one training step, before a slice is rented.
Source:   the models: Touvron et al. (2023), arXiv:2307.09288; Grattafiori et al. (2024), arXiv:2407.21783; Brown et al.
          (2020), arXiv:2005.14165, table 2.1; Jiang et al. (2024), arXiv:2401.04088. Slices, meshes and batches are
          those of MaxText's settings: AdamW, float32 state, bfloat16 computation, full rematerialisation.
Target:   no column of scripts/benchmark/pods.py more than 2% worse than MaxText's, compiled by the same
          compiler; met but for the compile time of Mixtral, not measured since its sorts changed (README).
Data:     C4 by TFDS, for those who want to train them.
Run:      python -m bigmodel_jax plan experiments/pods.py:sweep/llama2_7b_v5p --topology v5p:4x4x4
Check:    python -m bigmodel_jax train experiments/pods.py:smoke --workdir /tmp/pods_smoke
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

C4 = sources.Tfds(name='c4/en', split='train')


def on_pod(
    name: str, model: decoder.Decoder, mesh: sharding.MeshShape, *, rows: int, length: int, remat: str = 'full'
) -> Experiment:
    """`rows` sequences of `length` tokens in each of 10,000 steps."""
    tokenizer = tokenizers.Bpe(vocab=model.vocab, trained_on=sources.Tfds(name='c4/en', split='train[:1%]'))
    return Experiment(
        name=name,
        steps=10_000,
        data=text.Text(source=C4, tokenizer=tokenizer, batch=rows, length=length),
        model=vary(model, {'dtype': 'bfloat16', 'stack.remat': remat}),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=3e-4, warmup_steps=2_000, final=3e-5),
            b2=0.95,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        mesh=mesh,
        checkpoints=Checkpoints(every_steps=500),
    )


def experiment() -> Experiment:
    return sweep()['llama2_7b_v5p']


def sweep() -> dict[str, Experiment]:
    """Each arm belongs to the slice that its name ends in; experiments/budget.json has the shape."""
    llama2, llama3 = decoder.LLAMA2_7B, decoder.LLAMA3_8B
    # 50,257 rounded up to a multiple of 128, so that it shards.
    gpt3 = vary(decoder.GPT3_175B, {'vocab': 50_304})
    arms = (
        on_pod('llama2_7b_v5p', llama2, sharding.MeshShape(fsdp=64), rows=64 * 4, length=4_096),
        on_pod('llama2_7b_v5e', llama2, sharding.MeshShape(fsdp=256), rows=256 * 2, length=4_096),
        on_pod('gpt3_175b_v5p', gpt3, sharding.MeshShape(fsdp=64, tensor=8), rows=512 * 4, length=2_048),
        on_pod('mixtral_8x7b_v5p', decoder.MIXTRAL_8X7B, sharding.MeshShape(fsdp=128), rows=128 * 4, length=4_096),
        on_pod('llama3_8b_v6e', llama3, sharding.MeshShape(fsdp=256), rows=256, length=8_192),
    )
    return {arm.name: arm for arm in arms}


def smoke() -> Experiment:
    """A minute on a laptop, on data that needs no download: a Llama at 1/10,000 of the size, on one device."""
    train = sources.Tfds(name='python_docs', split='train')
    model = decoder.llama(vocab=512, width=48, layers=2, heads=4, kv_heads=2, hidden=96, rope_base=10_000.0)
    small = on_pod('pods_smoke', model, sharding.MeshShape(data=1), rows=8, length=64)
    changes = {
        'steps': 20,
        'optimizer.schedule.warmup_steps': 5,
        'data': text.Text(
            source=train, tokenizer=tokenizers.Bpe(vocab=512, trained_on=train), batch=8, length=64
        ),
        'watch.log_every': 5,
    }
    return vary(small, changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
