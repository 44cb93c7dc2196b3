"""Fine-tuning a Hugging Face model with its own tokenizer on a file of text, and sampling from it.

Question: what does a published model write after it has seen my text?
Source:   any directory with config.json, *.safetensors and tokenizer.json (or tokenizer.model) of a supported family.
Target:   none; the loss on the last tenth of the text shows how long to train.
Data:     a text file of your own.
Run:      python -m bigmodel_jax train experiments/first_week/finetune_huggingface.py --arg directory=DIR \
              --arg path=my.txt --workdir runs/tuned
          python -m bigmodel_jax sample runs/tuned --prompt 'Once upon a time'
          python -m bigmodel_jax convert runs/tuned tuned_huggingface
"""

import pathlib

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.interop import finetuning
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules


def experiment(directory: str = 'data/gpt2', path: str = 'data/my.txt') -> Experiment:
    own = pretrained_tokenizer.Pretrained(path=directory)
    train = text.Text(source=sources.TextFile(path=path, stop=0.9), tokenizer=own, batch=8, length=512)
    return Experiment(
        name='finetune_huggingface',
        steps=1_000,
        model=finetuning.model(directory),
        initialization=finetuning.Weights(path=directory),
        data=train,
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=2e-5, warmup_steps=50)),
        evaluations=(
            loss.Loss(data=vary(train, {'source': sources.TextFile(path=path, start=0.9)}), every_steps=100),
        ),
    )


def smoke() -> Experiment:
    """Seconds, on a tiny model beside this file, and on the text of this file."""
    whole = experiment(str(pathlib.Path(__file__).parent / 'data' / 'tiny_gpt2'), __file__)
    return vary(
        whole,
        {
            'steps': 4,
            'optimizer.schedule.warmup_steps': 2,
            'evaluations.0.every_steps': 4,
            'data.length': 16,
            'evaluations.0.data.length': 16,
        },
    )
