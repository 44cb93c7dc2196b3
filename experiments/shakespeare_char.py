"""Characters of Shakespeare on a CPU: the field's best-known small baseline.

Question: does the framework learn as well as nanoGPT does, in as many steps and as little time?
Source:   nanoGPT's README, "I only have a macbook", and its config/train_shakespeare_char.py (Karpathy, 2022):
          4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout, no bias, AdamW.
Target:   validation loss 1.88 (its README, on 20 random batches; here over the whole held-out tenth).
Data:     tinyshakespeare's input.txt (1.1 MB, from github.com/karpathy/char-rnn), in data/tinyshakespeare/ unless told.
Run:      python -m bigmodel_jax train experiments/shakespeare_char.py --arg path=input.txt --workdir runs/shakespeare
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import decoding, samples
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import activations, attention, blocks, ffn, norms, positions, stacks
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models.decoder import Decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

LAYERS, WIDTH, LENGTH, STEPS = 4, 128, 64, 2_000
INIT = weights.Normal(stddev=0.02)
OUT_INIT = weights.Normal(stddev=0.02 * (2 * LAYERS) ** -0.5)


def rows(path: str, *, batch: int, held_out: bool = False) -> text.Text:
    """Windows of characters: the first nine tenths of the file are for training, the last tenth is held out."""
    whole = sources.TextFile(path=path)
    part = sources.TextFile(path=path, start=0.9) if held_out else sources.TextFile(path=path, stop=0.9)
    return text.Text(source=part, tokenizer=tokenizers.Characters(trained_on=whole), batch=batch, length=LENGTH)


def experiment(path: str = 'data/tinyshakespeare/input.txt') -> Experiment:
    norm = norms.LayerNorm(bias=False)
    return Experiment(
        name='shakespeare_char',
        seed=1337,
        steps=STEPS,
        data=rows(path, batch=12),
        model=Decoder(
            vocab=128,  # 65 characters and the end of the document, rounded up.
            width=WIDTH,
            layers=LAYERS,
            positions=positions.Learned(length=LENGTH),
            block=blocks.Block(
                mixer=attention.Attention(heads=4, init=INIT, out_init=OUT_INIT),
                ffn=ffn.Mlp(
                    hidden=4 * WIDTH, activation=activations.Gelu(approximate=False), init=INIT, out_init=OUT_INIT
                ),
                residual=blocks.PreNorm(norm=norm),
            ),
            norm=norm,
            stack=stacks.Stack(scan=False),  # Four layers compile quickly, and run faster without the loop.
        ),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=100, final=1e-4),
            b2=0.99,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=500),
        evaluations=(
            loss.Loss(data=rows(path, batch=64, held_out=True), every_steps=250),
            samples.Samples(prompts=('\n', 'ROMEO:'), tokens=56, decoding=decoding.Sampling(), every_steps=1_000),
        ),
        watch=Watch(log_every=20),
    )


def smoke() -> Experiment:
    """Seconds, on Python documentation instead of Shakespeare: shows that the pieces fit, not that they learn."""
    docs = sources.Tfds(name='python_docs', split='validation')
    tokenizer = tokenizers.Characters(trained_on=docs)
    changes = {
        'steps': 20,
        'model.vocab': 1_024,
        'model.layers': 1,
        'data.source': docs,
        'data.tokenizer': tokenizer,
        'evaluations.0.data.source': docs,
        'evaluations.0.data.tokenizer': tokenizer,
        'evaluations.0.max_batches': 2,
        'evaluations.1.tokens': 16,
        'evaluations.1.prompts': ('The ',),
        'optimizer.schedule.warmup_steps': 5,
        'watch.log_every': 5,
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
