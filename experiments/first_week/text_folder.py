"""A language model on a folder of text, a tenth of whose files is held out.

Data:     every .txt and .md file in the folder and below it, or the same compressed (.gz); a file is a document.
Run:      python -m bigmodel_jax train experiments/first_week/text_folder.py --arg path=FOLDER --workdir runs/text
"""

import pathlib

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules


def experiment(path: str = 'data/books') -> Experiment:
    train, validation = (sources.TextFiles(pattern=path, part=part) for part in splits.both(held_out=0.1))
    data = text.Text(source=train, tokenizer=tokenizers.Bytes(), batch=32, length=128)
    return Experiment(
        name='text_folder',
        steps=2_000,
        data=data,
        model=decoder.gpt(vocab=320, width=128, layers=4, heads=4, length=128),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=100)),
        evaluations=(loss.Loss(data=vary(data, {'source': validation}), every_steps=200),),
    )


def smoke() -> Experiment:
    """Seconds, on the files beside this one."""
    model = decoder.gpt(vocab=320, width=16, layers=1, heads=1, length=128)
    tiny = {'steps': 4, 'data.batch': 8, 'model': model, 'optimizer.schedule.warmup_steps': 2}
    return vary(experiment(str(pathlib.Path(__file__).parent / 'data' / 'books')), tiny)
