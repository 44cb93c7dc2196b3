"""Whose a checkpoint is: that of a run which had the experiment that saved it, in one of its segments."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from bigmodel_jax import config, differences
from bigmodel_jax.run_directory import segments
from bigmodel_jax.storage import durable_files, integrity


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Tells the checkpoints of a run from those of others, by the experiments that it had."""

    experiments: tuple[dict[str, Any], ...]  # As JSON; none: the run lost them.

    @classmethod
    def of(cls, workdir: epath.Path) -> 'Lineage':
        """That of the run in a directory."""
        return cls(tuple(each.experiment for each in segments.read(workdir)))

    def fingerprint(self, attachments: Mapping[str, bytes]) -> str:
        """Of the experiment of a checkpoint: that in its `attachments`, or else the current one."""
        content = attachments.get(durable_files.EXPERIMENT)
        current = self.experiments[-1] if self.experiments else {}
        return integrity.fingerprint(current if content is None else json.loads(content), differences.CIRCUMSTANCES)

    def made(self, checkpoint: epath.Path, fingerprint: str) -> bool:
        """Whether a checkpoint is of this run.

        Args:
          checkpoint: its directory.
          fingerprint: of the experiment that saved it, as its record says; see integrity.fingerprint().
        """
        if fingerprint in {
            integrity.fingerprint(each, differences.CIRCUMSTANCES) for each in self.experiments or ({},)
        }:
            return True
        path = checkpoint / durable_files.EXPERIMENT
        if not durable_files.exists(path):
            return False
        own = durable_files.read_json(path)  # Another version of the package may write the same experiment otherwise.
        if integrity.fingerprint(own, differences.CIRCUMSTANCES) != fingerprint:
            return False
        return _lasting(own) in [_lasting(each) for each in self.experiments]


def _lasting(experiment: dict[str, Any]) -> dict[str, Any]:
    kept = config.normalized(experiment)
    return {name: value for name, value in kept.items() if name not in differences.CIRCUMSTANCES}
