"""Trials: one arm with one seed, named by what it is, so that none is run twice or mistaken for another."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config, differences
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.sweeps.sweep import Sweep
from bigmodel_jax.user_code import definitions

DIGITS = 12  # Of the hash in a name: that two of a million trials have the same one has a probability of 0.2%.
# Fields that say where, how often and under which name, and not what: a trial with others is the same trial.
CIRCUMSTANCES = ('name', *(each for each in differences.CIRCUMSTANCES if each != 'watch'))
CIRCUMSTANCES_OF_WATCH = ('log_every', 'fingerprints_every', 'histograms_every')


@dataclasses.dataclass(frozen=True)
class Trial:
    """One arm with one seed.

    Attributes:
      experiment: of the arm, with the seed; its name is that of the arm.
      address: 12 hexadecimal digits that follow from the experiment and the code of its own parts.
    """

    arm: str
    seed: int
    experiment: Experiment
    address: str

    @property
    def name(self) -> str:
        """The name of its run's directory: 'ARM-seed0-0123456789ab'."""
        return f'{self.arm}-seed{self.seed}-{self.address}'


def trials(sweep: Sweep) -> list[Trial]:
    """Every trial, seed by seed, so that a sweep that is interrupted has compared all arms with the first seeds.

    Raises:
      InputError: two arms are the same experiment.
    """
    found = [trial(arm, seed, each) for seed in sweep.seeds for arm, each in sweep.arms.items()]
    first: dict[str, Trial] = {}
    for each in found:
        other = first.setdefault(each.address, each)
        if other is not each:
            raise config.InputError(
                f'The arms {other.arm} and {each.arm} are the same experiment, apart from names and circumstances. '
                'Change one of them, or leave one out.'
            )
    return found


def trial(arm: str, seed: int, experiment: Experiment) -> Trial:
    """The trial of an arm's experiment with a seed."""
    varied = config.vary(experiment, {'seed': seed, 'name': arm}, origin='sweep')
    return Trial(arm, seed, varied, address(varied))


def address(experiment: Experiment) -> str:
    """What an experiment computes, as 12 hexadecimal digits.

    Its circumstances have no part in it, nor have fields at their defaults: a version that adds a field finds the
    trials of an older one. The code of the parts that a person defined has, as far as these parts reach it and apart
    from comments: arms can be added to an experiment file without changing the others.
    """
    content = {name: value for name, value in _content(experiment).items() if name not in CIRCUMSTANCES}
    watch = {name: value for name, value in content.pop('watch', {}).items() if name not in CIRCUMSTANCES_OF_WATCH}
    if len(watch) > 1:  # More than its class.
        content['watch'] = watch
    own = definitions.hashes(_classes(experiment))
    text = json.dumps([content, own], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _content(value: Any) -> Any:
    """A config as JSON-ready data without the fields that are at their defaults."""
    if config.is_config(value):
        fields = [(each.name, getattr(value, each.name), config.default_of(each)) for each in dataclasses.fields(value)]
        changed = {name: _content(own) for name, own, default in fields if own != default}
        return {config.CLASS_KEY: config.class_name(type(value)), **changed}
    if isinstance(value, Mapping):
        return {str(key): _content(item) for key, item in value.items()}
    return [_content(item) for item in value] if isinstance(value, (tuple, list)) else value


def _classes(node: Any) -> set[type]:
    """The classes of all configs within a config."""
    own = {type(node)} if config.is_config(node) else set()
    return own.union(
        *(_classes(value) for _, value in config.walk(node) if not isinstance(value, Mapping | tuple | list))
    )
