"""Checkpoints: Orbax, asynchronous, sharded, atomic; a step directory holds a run's model, optimizer and position."""

import types
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from bigmodel_jax import experiment
from bigmodel_jax.train import files
from bigmodel_jax.train import state as states
from bigmodel_jax.train.state import TrainState

PyTree = Any

# Items of a step directory. 'model' alone is enough to evaluate and sample.
MODEL = ('params', 'model_state')
OPTIMIZER = ('step', 'opt_state')


def flatten(tree: PyTree) -> dict[str, Any]:
    """Path ('params.blocks.layers.ffn.up') -> array. Stored so, a checkpoint does not depend on container classes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any], like: PyTree) -> PyTree:
    """The inverse of flatten(), for a tree of the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in flatten(like)])


def _part(state: TrainState, fields: tuple[str, ...]) -> dict[str, PyTree]:
    return {name: getattr(state, name) for name in fields}


class Checkpointer:
    """The checkpoints of a work directory, as a context manager; leaving it waits for the last save.

    Args:
      workdir: the run's directory; checkpoints are in its `checkpoints/`.
      policy: which are kept; None opens them for reading only.
    """

    def __init__(self, workdir: epath.Path, policy: experiment.Checkpoints | None):
        # Orbax takes absolute paths only; gs://... is one.
        self._directory = (workdir if '://' in str(workdir) else workdir.resolve()) / files.CHECKPOINTS
        options = ocp.CheckpointManagerOptions(
            create=policy is not None,
            read_only=policy is None,
            cleanup_tmp_directories=policy is not None,
            preservation_policy=None if policy is None else _preservation(policy),
        )
        # Named here, so that what is stored can be asked for before it is restored.
        handlers = {
            'model': ocp.StandardCheckpointHandler(),
            'optimizer': ocp.StandardCheckpointHandler(),
            'position': ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handlers)

    def __enter__(self) -> 'Checkpointer':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def newest(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps, default=None)

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises what went wrong."""
        self._manager.wait_until_finished()

    def save(self, state: TrainState, position: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Starts to save `state`; returns once the arrays are copied, and goes on writing in the background.

        Args:
          position: JSON-ready; what else is needed to go on, with the step under 'step'.
          metrics: those by which the best checkpoint is known, by name.
        """
        self._manager.save(
            position['step'],
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(flatten(_part(state, MODEL))),
                optimizer=ocp.args.StandardSave(flatten(_part(state, OPTIMIZER))),
                position=ocp.args.JsonSave(dict(position)),
            ),
            metrics=dict(metrics) or None,
        )

    def restore(self, abstract: TrainState, shardings: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state at `step` laid out as `shardings` say, and its position.

        Raises:
          InputError: the arrays stored are not those of `abstract`.
        """
        wanted = {
            'model': _targets(abstract, shardings, MODEL),
            'optimizer': _targets(abstract, shardings, OPTIMIZER),
        }
        self._check(step, wanted)
        arguments = {name: ocp.args.StandardRestore(target) for name, target in wanted.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments, position=ocp.args.JsonRestore()))
        arrays = {**restored['model'], **restored['optimizer']}
        return unflatten(arrays, abstract), restored['position']

    def restore_model(self, abstract: TrainState, shardings: TrainState, step: int) -> tuple[PyTree, PyTree]:
        """Parameters and model state at `step`, without the optimizer.

        Raises:
          InputError: the arrays stored are not those of `abstract`.
        """
        target = _targets(abstract, shardings, MODEL)
        self._check(step, {'model': target})
        restored = self._manager.restore(step, args=ocp.args.Composite(model=ocp.args.StandardRestore(target)))
        like = _part(abstract, MODEL)
        model = unflatten(restored['model'], like)
        return model['params'], model['model_state']

    def _check(self, step: int, wanted: Mapping[str, PyTree]) -> None:
        # Orbax would cast another dtype without a word, and name a wrong shape without the experiment.
        metadata = self._manager.item_metadata(step)
        for name, target in wanted.items():
            there, here = _arrays(metadata[name].tree), _arrays(target)
            states.check_same(here, there, f'Checkpoint {self._directory / str(step)}')


def _arrays(flat: Mapping[str, Any]) -> states.Arrays:
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in flat.items()}


def _targets(abstract: TrainState, shardings: TrainState, fields: tuple[str, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    places = flatten(_part(shardings, fields))
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in flatten(_part(abstract, fields)).items()
    }


def _preservation(policy: experiment.Checkpoints) -> preservation_policy.PreservationPolicy:
    parts: list[preservation_policy.PreservationPolicy] = [preservation_policy.LatestN(policy.keep_last)]
    if policy.keep_every is not None:
        parts.append(preservation_policy.EveryNSteps(policy.keep_every))
    if policy.keep_best is not None:
        best = policy.keep_best
        parts.append(
            preservation_policy.BestN(
                get_metric_fn=lambda metrics: metrics[best], reverse=True, n=1, keep_checkpoints_without_metrics=False
            )
        )
    return preservation_policy.AnyPreservationPolicy(parts)
