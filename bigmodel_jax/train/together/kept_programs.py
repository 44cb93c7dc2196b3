"""Which arms of an ablation share their compiled programs, and the programs that a process keeps for their runs."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.train import step
from bigmodel_jax.train.together import grouping, shared_programs

KEPT = 16  # Groups whose programs a process keeps; of a large model they take memory.


@dataclasses.dataclass(frozen=True)
class ArmToGroup:
    """An arm for grouping.groups()."""

    name: str
    experiment: Experiment


def groups(arms: Mapping[str, Experiment]) -> list[tuple[str, ...]]:
    """The arms in groups of which every run, whatever its seed, can use the same programs.

    An arm whose seeds cannot share theirs is in no group.
    """
    shared = [ArmToGroup(arm, each) for arm, each in arms.items() if not grouping.apart(each, each)]
    return [tuple(each.name for each in group) for group in grouping.groups(shared)]


class KeptPrograms:
    """The programs of the groups from which this process has trained a run, of the last KEPT of them.

    Args:
      seeds: of the runs of each arm.
    """

    def __init__(self, seeds: Sequence[int]):
        self._seeds = seeds
        self._groups: list[tuple[str, ...]] | None = None
        self._kept: collections.OrderedDict[tuple[str, ...], step.RunPrograms] = collections.OrderedDict()

    def of(self, arm: str, arms: Mapping[str, Experiment]) -> step.RunPrograms:
        """Those for the runs of an arm: its own if it can share none.

        Args:
          arms: all that may share them.
        """
        if self._groups is None:
            self._groups = groups(arms)
        group = next((each for each in self._groups if arm in each), None)
        if group is None or len(group) * len(self._seeds) < 2:
            return step.OWN_PROGRAMS
        if group not in self._kept:
            members = [config.vary(arms[each], {'seed': seed}) for each in group for seed in self._seeds]
            self._kept[group] = shared_programs.SharedPrograms(members)
        self._kept.move_to_end(group)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[group]
