"""GPT-2 124M on web text, as published, on a slice of TPU v5e.

Question: the reference point that every other language model here is compared with.
Source:   Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", sections 2.1 to 2.3 and table 2.
          They give no optimizer settings; these are GPT-3's for its smallest model (Brown et al., 2020,
          arXiv:2005.14165, table 2.1 and appendix B), with the batch that the paper gives: 512 rows of 1,024 tokens.
Target:   none here yet: WebText was never released. On OpenWebText nanoGPT reports a validation loss of 2.85.
Data:     lm1b stands in for WebText, as TFDS can download it; any TFDS name, text files or JSON lines will do.
Run:      python -m bigmodel_jax train experiments/gpt2.py --workdir gs://BUCKET/gpt2
Check:    python -m bigmodel_jax train experiments/gpt2.py:smoke --workdir /tmp/gpt2_smoke
"""

from bigmodel_jax import sharding
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

LENGTH = 1_024
VOCAB = 50_257


def rows(source: sources.Source, *, vocab: int = VOCAB) -> text.Text:
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
        evaluations=(loss.Loss(data=rows(sources.Tfds(name='lm1b', split='test')), every_steps=500, max_batches=20),),
    )


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
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
