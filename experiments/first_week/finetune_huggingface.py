"""Fine-tuning a Hugging Face model with its own tokenizer on a file of text, and sampling from it.

Question: what does a published model write after it has seen my text?
Source:   any directory with config.json, *.safetensors and tokenizer.json (or tokenizer.model) of a supported family.
Target:   none; the loss on the last tenth of the text shows how long to train.
Data:     a text file of your own.
Run:      python -m bigmodel_jax train experiments/first_week/finetune_huggingface.py --arg directory=DIR \
              --arg path=my.txt --workdir runs/tuned
          python -m bigmodel_jax sample --workdir runs/tuned --prompt 'Once upon a time'
          python -m bigmodel_jax convert runs/tuned tuned_huggingface
"""

from bigmodel_jax import sharding
from bigmodel_jax.data import pretrained_tokenizer, sources, text
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.interop import finetuning
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules


def experiment(directory: str, path: str, length: int = 512, batch: int = 8, steps: int = 1_000) -> Experiment:
    own = pretrained_tokenizer.Pretrained(path=directory)
    train, held_out = sources.TextFile(path=path, stop=0.9), sources.TextFile(path=path, start=0.9)
    rest = text.Text(source=held_out, tokenizer=own, batch=batch, length=length)
    return Experiment(
        name='finetune_huggingface',
        steps=steps,
        model=finetuning.model(directory),
        start=finetuning.Weights(path=directory),
        data=text.Text(source=train, tokenizer=own, batch=batch, length=length),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=2e-5, warmup_steps=max(steps // 20, 1))),
        mesh=sharding.MeshShape(data=1),
        evaluations=(loss.Loss(data=rest, every_steps=steps // 4),),
        checkpoints=Checkpoints(every_steps=steps // 4),
    )


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
