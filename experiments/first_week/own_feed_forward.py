"""A feed-forward layer of one's own in the blocks of a language model: two matrices with a squared ReLU between them.

Source:   So et al. (2021), Primer, arXiv:2109.08668, section 3.2.
Data:     as in text_folder.py, which lies beside this file.
Run:      python -m bigmodel_jax train experiments/first_week/own_feed_forward.py --arg path=FOLDER --workdir runs/own
"""

import dataclasses

import text_folder
from flax import linen as nn

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import ffn


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquaredRelu(ffn.Ffn):
    hidden: int

    def build(self, name: str | None = None) -> nn.Module:
        return SquaredReluModule(self, name=name)


class SquaredReluModule(nn.Module):
    config: SquaredRelu

    @nn.compact
    def __call__(self, x_BTD):
        hidden_BTF = nn.relu(nn.Dense(self.config.hidden, dtype=x_BTD.dtype)(x_BTD)) ** 2
        return nn.Dense(x_BTD.shape[-1], dtype=x_BTD.dtype)(hidden_BTF)


def experiment(path: str = 'data/books') -> Experiment:
    return vary(text_folder.experiment(path), {'name': 'own_ffn', 'model.block.ffn': SquaredRelu(hidden=512)})


def smoke() -> Experiment:
    """Seconds, on the files beside this one."""
    return vary(text_folder.smoke(), {'name': 'own_ffn', 'model.block.ffn': SquaredRelu(hidden=32)})
