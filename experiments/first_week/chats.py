"""Instruction tuning: conversations, of which the model learns to write the answers; a tenth of them is held out.

Data:     lines of JSON, in .jsonl or .jsonl.gz: {"messages": [{"role": "user", "content": ...}, {"role": "assistant",
          "content": ...}]}, or with "instruction", "input" and "output", or with "prompt" and "completion".
          For the tokenizer and the chat template of an existing model: tokenizer=pretrained_tokenizer.Pretrained(
          path=...), template=chat_templates.Jinja().
Run:      python -m bigmodel_jax train experiments/first_week/chats.py --arg path=FILE.jsonl --workdir runs/chats
Ask:      python -m bigmodel_jax sample runs/chats --prompt 'Name a color.'   (written with the template of the data)
"""

import pathlib

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import instructions
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules


def experiment(path: str = 'data/chats.jsonl') -> Experiment:
    train, validation = (sources.JsonLines(pattern=path, part=part) for part in splits.both(held_out=0.1))
    data = instructions.Instructions(source=train, tokenizer=tokenizers.Bytes(), batch=16, length=256)
    return Experiment(
        name='chats',
        steps=2_000,
        data=data,
        model=decoder.gpt(vocab=320, width=128, layers=4, heads=4, length=256),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=100)),
        evaluations=(loss.Loss(data=vary(data, {'source': validation}), every_steps=200),),
    )


def smoke() -> Experiment:
    """Seconds, on the file beside this one."""
    model = decoder.gpt(vocab=320, width=16, layers=1, heads=1, length=256)
    tiny = {'steps': 4, 'data.batch': 8, 'model': model, 'optimizer.schedule.warmup_steps': 2}
    return vary(experiment(str(pathlib.Path(__file__).parent / 'data' / 'chats.jsonl')), tiny)
