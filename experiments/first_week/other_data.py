"""Continuing a run with other data on purpose: the same model goes on learning from another folder of text.

The run keeps its weights, its step, its tokenizer and the state of its optimizer. The steps before are an earlier
segment of the run, which `diff`, `verify` and the report know.

Data:     a first and a second folder, as in text_folder.py, which lies beside this file.
Run:      python -m bigmodel_jax train experiments/first_week/text_folder.py --arg path=FIRST --workdir runs/text
          python -m bigmodel_jax train experiments/first_week/other_data.py --arg path=SECOND --workdir runs/text \
              --new-segment
"""

import text_folder

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment


def experiment(path: str = 'data/more_books', more_steps: int = 2_000) -> Experiment:
    first = text_folder.experiment(path)
    return vary(first, {'steps': first.steps + more_steps})


def smoke() -> Experiment:
    """Seconds: the same folder again, with more rows in a batch."""
    return vary(text_folder.smoke(), {'steps': 6, 'data.batch': 16})
