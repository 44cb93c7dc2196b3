"""The initial state of a run: random, or with parameters from a checkpoint of another run."""

import dataclasses
import fnmatch
import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from bigmodel_jax import config, initialization
from bigmodel_jax.checkpoints import checkpoints, partial_state, restore
from bigmodel_jax.data import saved
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.tokenizer import Tokenizer
from bigmodel_jax.hosts import processes
from bigmodel_jax.layers import image_positions
from bigmodel_jax.run_directory import digest, identity, lineage
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train import state

PyTree = Any
# Of the record of where the weights come from: what has a sentence of its own, and what is not for people.
TOLD_ELSEWHERE = ('by_chance', 'digest', 'config')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromRun(initialization.Initialization):
    """The parameters of another run, and the state of its model, those that both models have, by path and shape.

    Moments of the optimizer, the step and the position in the data are not taken: this is another run.
    """

    run: str  # Its work directory.
    step: config.NonNegative | None = None  # None: its newest checkpoint, whose step is recorded.
    without: tuple[str, ...] = ()  # Patterns of parameters that keep their random initialization: 'pooler.*'.
    other_tokenizer: bool = False  # Take also parameters that belong to token ids, although the ids are of another one.

    def check(self, wanted: initialization.Wanted) -> None:
        path, step = self._find()
        there = processes.from_first(processes.on_first(lambda: _shapes(path, step)))
        initialization.match(wanted, there, without=self.without, where=str(path))

    def check_tokenizer(self, fingerprint: Mapping[str, Any], by_id: initialization.Wanted) -> None:
        left_out = {name for pattern in self.without for name in fnmatch.filter(by_id, pattern)}
        taken = sorted(by_id.keys() - left_out)
        path, step = self._find()
        there = processes.from_first(processes.on_first(lambda: _tokenizer(path, step)))
        if self.other_tokenizer or not taken or there in (None, json.loads(json.dumps(fingerprint))):
            return
        folder = str(path.parent.parent / tokenizers.FOLDER)
        raise config.InputError(
            f'initialization: {initialization.listed(taken)} of {path} belong to the token ids of another tokenizer: '
            f'there {_described(there)}, here {_described(fingerprint)}. Use the tokenizer of that run, '
            f'tokenizer=Saved(directory={folder!r}) of bigmodel_jax.data.saved; or initialize these parameters anew, '
            f'initialization.without={tuple(taken)!r}; or take them nevertheless, initialization.other_tokenizer=True.'
        )

    def read(self, wanted: initialization.Wanted) -> initialization.ResolvedWeights:
        path, step = self._find()

        def choose(stored: partial_state.Arrays) -> dict[str, jax.ShapeDtypeStruct]:
            there = _by_path({name: shape for name, (shape, _) in stored.items()})
            names = initialization.match(wanted, there, without=self.without, where=str(path))
            return {initialization.stored_name(name): wanted[name] for name in names}

        try:
            found = restore.read_some(
                path, choose, item='model', step=step, ours=lineage.Lineage.of(path.parent.parent).made
            )
        except integrity.DamagedCheckpoint as error:
            raise config.InputError(f'initialization: {error}. Use another step, with initialization.step.') from error
        arrays = _by_path(found)
        origin = {'run': self.run, 'step': step, 'parameters': len(arrays), 'digest': digest.digest(arrays)}
        return initialization.ResolvedWeights(arrays, origin)

    def _find(self) -> tuple[epath.Path, int]:
        """The directory of the checkpoint, and its step."""
        step = processes.from_first(processes.on_first(self._step))
        return _absolute(self.run) / durable_files.CHECKPOINTS / str(step), step

    def _step(self) -> int:
        path = _absolute(self.run)
        if not durable_files.exists(path / durable_files.EXPERIMENT):
            raise config.InputError(
                f'initialization.run={self.run!r}: {path} holds no run, but this one begins with its weights. '
                'Train that one first, or say where it is: initialization.run.'
            )
        steps = durable_files.saved_steps(path)
        if not steps:
            raise config.InputError(f'initialization.run={self.run!r}: {path} holds no checkpoint yet; train it first.')
        if self.step is not None and self.step not in steps:
            listed = ', '.join(map(str, steps))
            raise config.InputError(
                f'initialization.step={self.step}: {path} has no such checkpoint; there are {listed}.'
            )
        return steps[-1] if self.step is None else self.step


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromOtherResolution(FromRun):
    """As FromRun, of a model of smaller (or larger) images: its learned positions are interpolated."""

    before: tuple[config.Positive, config.Positive]  # Rows and columns of patches of the other model;
    after: tuple[config.Positive, config.Positive]  # and of this one.
    positions: str = 'positions.table'  # The parameter, [extra + patches, D].
    extra: config.NonNegative = 1  # Positions at its head that are no patches, such as that of the class token.

    def check(self, wanted: initialization.Wanted) -> None:
        if self.positions not in wanted:
            raise config.InputError(
                f'initialization.positions: the model has no parameter {self.positions!r}.'
                f'{config.nearest(self.positions, wanted)}'
            )
        rows = self.extra + self.after[0] * self.after[1]
        if wanted[self.positions].shape[0] != rows:
            raise config.InputError(
                f'initialization.after={self.after} makes {rows} positions, with extra={self.extra}, but the model has '
                f'{wanted[self.positions].shape[0]}.'
            )
        super().check(self._stored(wanted))

    def read(self, wanted: initialization.Wanted) -> initialization.ResolvedWeights:
        found = super().read(self._stored(wanted))
        table = image_positions.interpolate(
            found.arrays[self.positions], before=self.before, after=self.after, extra=self.extra
        )
        arrays = {**found.arrays, self.positions: jax.device_put(table, wanted[self.positions].sharding)}
        return initialization.ResolvedWeights(arrays, found.origin)

    def _stored(self, wanted: initialization.Wanted) -> initialization.Wanted:
        """The shapes that the other model has."""
        here = wanted[self.positions]
        shape = (self.extra + self.before[0] * self.before[1], *here.shape[1:])
        return {**wanted, self.positions: jax.ShapeDtypeStruct(shape, here.dtype, sharding=here.sharding)}


def _absolute(path: str) -> epath.Path:
    # Orbax takes absolute paths only; gs://... is one.
    found = durable_files.directory(path)
    return found if durable_files.is_remote(found) else found.resolve()


def _shapes(path: epath.Path, step: int) -> dict[str, list[int]]:
    """The shapes of the parameters of a checkpoint, as its record says."""
    try:
        record = integrity.check(path, step=step, ours=lineage.Lineage.of(path.parent.parent).made, items=('model',))
    except integrity.DamagedCheckpoint as error:
        raise config.InputError(
            f'initialization: {path} is damaged: {error}. Use another step, with initialization.step.'
        ) from error
    stored = record['arrays']['model']
    return _by_path({name: each['shape'] for name, each in stored.items()})


def _by_path(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to the arrays of a checkpoint, by their paths; without those of its moving average."""
    found = {initialization.path_of(name): value for name, value in stored.items()}
    return {path: value for path, value in found.items() if path is not None}


def _tokenizer(path: epath.Path, step: int) -> dict[str, Any] | None:
    """The fingerprint of the tokenizer of a checkpoint, of the run around it, or as it was recorded; None: unknown."""
    found = identity.tokenizer_of(path.parent.parent)
    if found is None and saved.is_saved(path / tokenizers.FOLDER):
        found = tokenizers.load(path / tokenizers.FOLDER)
    if found is None:
        return identity.recorded_tokenizer(path.parent.parent)
    return json.loads(json.dumps(found.fingerprint))


def _described(fingerprint: Mapping[str, Any]) -> str:
    hashes = [f'{name} {value[:12]}...' for name, value in fingerprint.items() if name not in ('class', 'size')]
    return ', '.join([fingerprint['class'], f'{fingerprint["size"]:,} tokens', *hashes])


# ---- a run ----------------------------------------------------------------------------------------------------------


def check(
    source: initialization.Initialization | None,
    spec: state.StateSpec,
    directory: epath.Path,
    tokenizer: Tokenizer | None,
) -> None:
    """Raises InputError if a run in `directory`, which may have checkpoints of its own, cannot begin with `source`."""
    own = directory / durable_files.CHECKPOINTS
    if source is None or durable_files.names_in(own):
        return
    asked = wanted(spec)
    source.check(asked)
    if tokenizer is not None:
        axes = jax.tree.leaves(spec.storage.axes, is_leaf=lambda node: isinstance(node, tuple))
        by_id = {name: asked[name] for name, names in zip(asked, axes) if 'vocab' in names}
        source.check_tokenizer(tokenizer.fingerprint, by_id)


def begin(
    source: initialization.Initialization | None, spec: state.StateSpec
) -> tuple[state.TrainState, dict[str, Any] | None]:
    """The state before the first step, and the record of where its weights come from; None if they are random.

    Raises:
      InputError: the weights that `source` names are missing, damaged, or of another model.
    """
    drawn = spec.init()
    if source is None:
        return drawn, None
    asked = wanted(spec)
    found = source.read(asked)
    state_of_model = _state(drawn.model_state)
    own = {path: array for path, array in found.arrays.items() if path not in state_of_model}
    params = checkpoints.flatten(drawn.params) | checkpoints.flatten(spec.storage.stored(own))
    state_of_model |= {path: array for path, array in found.arrays.items() if path in state_of_model}
    named = {path.removeprefix(initialization.STATE): array for path, array in state_of_model.items()}
    drawn = drawn._replace(model_state=checkpoints.unflatten(named, drawn.model_state))
    by_chance = [path for path in asked if path not in found.arrays]
    record = found.origin | {'by_chance': by_chance}
    return spec.started_from(drawn, checkpoints.unflatten(params, drawn.params)), json.loads(json.dumps(record))


def sentence(record: dict[str, Any]) -> str:
    """What begin() did, for people."""
    what = ', '.join(f'{name} {value}' for name, value in record.items() if name not in TOLD_ELSEWHERE)
    return f'begins with weights of {what}; initialized at random: {initialization.listed(record["by_chance"])}'


def wanted(spec: state.StateSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters of a run, and then the state of its model, as a source of initial weights is asked for them."""
    places = _state(spec.shardings.model_state)
    of_model = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[path])
        for path, leaf in _state(spec.abstract.model_state).items()
    }
    return spec.storage.wanted(spec.shardings.params) | of_model


def _state(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree like the state of a model, by path."""
    return {initialization.STATE + name: leaf for name, leaf in checkpoints.flatten(tree).items()}
