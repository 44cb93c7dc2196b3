"""Checkpoints: sharded, asynchronous, checked; a step directory holds a run's model, optimizer and position."""

import concurrent.futures
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from bigmodel_jax import config, experiment
from bigmodel_jax.checkpoints import listing, partial_state, restore, retention, saving
from bigmodel_jax.evaluate import metric
from bigmodel_jax.hosts import processes
from bigmodel_jax.run_directory import lineage
from bigmodel_jax.storage import appending, durable_files, integrity, stores, waits

PyTree = Any
# A NamedTuple of pytrees, whose property `items` says which of its fields go into which item of a step directory.
State = Any
CHANGES = 20  # So often a checkpoint may be deleted by a run while it is read from another process.
LONGEST_WAIT_S = 300.0  # Between a save that failed and the next try.


class NotSaved(Exception):
    """The last state of a session could not be saved; says what is lost and what to do."""


class RestoredWeights(NamedTuple):
    """The model of a run at one step."""

    step: int
    params: PyTree
    model_state: PyTree
    ema: PyTree


def flatten(tree: PyTree) -> dict[str, Any]:
    """Path ('params.blocks.layers.ffn.up') -> array. Stored so, a checkpoint does not depend on container classes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any], like: PyTree) -> PyTree:
    """The inverse of flatten(), for a tree of the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in flatten(like)])


def _part(state: State, item: str) -> dict[str, PyTree]:
    return state.items[item]


def _targets(abstract: State, shardings: State, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    places = flatten(_part(shardings, item))
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[name])
        for name, leaf in flatten(_part(abstract, item)).items()
    }


class Checkpointer:
    """The checkpoints of a work directory, as a context manager; leaving it waits for the last save.

    Every process makes the same calls, except failures() and due(), which may be called at any time.

    Args:
      workdir: the run's directory; checkpoints are in its `checkpoints/`.
      policy: which are kept; None opens them for reading only: nothing is written, moved or deleted.
      store: how they are written; None: as the path suggests.
      direction: in which the metric of `policy.keep_best` is better.
      rolls_back: also keep the checkpoint to which the run would go back.
      guard: called before anything is written; raises if this process must not write any more.

    Raises:
      InputError: the directory cannot be made or read.
    """

    def __init__(
        self,
        workdir: epath.Path,
        policy: experiment.Checkpoints | None,
        *,
        store: stores.Store | None = None,
        direction: metric.Direction = 'lower',
        rolls_back: bool = False,
        guard: Callable[[], None] = appending.nothing,
    ):
        self._guard = guard
        self.logs: Sequence[Callable[[], None]] = ()  # Each brings a log to disk, which no checkpoint is to outlive.
        # Orbax takes absolute paths only; gs://... is one.
        self.workdir = workdir if '://' in str(workdir) else workdir.resolve()
        self._directory = self.workdir / durable_files.CHECKPOINTS
        self._policy, self._direction, self._rolls_back = policy, direction, rolls_back
        self._left: set[int] = set()  # Those of a path that the run has left; they go when it has saved on its new one.
        self._store = stores.store_for(self._directory) if store is None else store
        self.damage: list[str] = []  # A sentence for every checkpoint that is not used, as it is damaged or unreadable.
        # What every checkpoint holds beside its arrays, so that it can be read if all else of the run is lost: file
        # name, such as 'tokenizer/vocabulary.json' -> content.
        self.attachments: Mapping[str, bytes] = {}
        self.anew: Callable[[], State] | None = None  # Gives what a checkpoint lacks of the optimizer's state.
        self.begun_anew: list[str] = []
        if policy is not None:
            processes.on_first(lambda: stores.make(self._directory, self._store))
        self._lineage = processes.run_on_all(lambda: lineage.Lineage.of(self.workdir))
        self._metrics: dict[int, dict[str, float]] = {}
        self._unreadable: dict[int, str] = {}  # Steps of which the storage does not give the record; they are kept.
        self._list()
        self._saver = None if policy is None else saving.Saver(self._store, guard)
        self._saving: tuple[int, dict[str, float], concurrent.futures.Future[saving.SaveResult]] | None = None
        self._undeleted: set[int] = set()  # Those that are not kept, and could not be deleted yet.
        self._said: list[str] = []
        self._failed: str | None = None  # Why the last save failed.
        self._tries, self._retry_at, self._began = 0, 0.0, time.monotonic()

    def __enter__(self) -> 'Checkpointer':
        return self

    def __exit__(self, *_: object) -> None:
        if self._saver is not None:
            self._saver.close()

    def _list(self) -> None:
        """Takes note of the checkpoints that there are now."""
        found = processes.from_first(processes.on_first(lambda: listing.found(self._directory, self._store)))
        self._metrics, self._unreadable = ({int(step): each for step, each in part.items()} for part in found)

    # ---- what there is ----

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, oldest first. Whether they are good is known when they are restored."""
        return sorted(self._metrics)

    @property
    def newest(self) -> int | None:
        """The newest step, or None; without one that is still being saved."""
        return max(self._metrics, default=None)

    def settled_newest(self) -> int | None:
        """The newest step once the save under way is done, or None."""
        self._settle()
        return self.newest

    def leave_after(self, step: int) -> None:
        """Deletes the checkpoints after `step`, to which the run has gone back, once the next one is safe."""
        self._left = {other for other in self._metrics if other > step}

    # ---- saving ----

    def save(self, state: State, position: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Starts to save `state`; returns once the arrays are copied, and writes in the background.

        Waits for the save before it, if that is not done. A failure of the storage is told by failures(), and does no
        harm to what was saved before. A checkpoint of the same step is replaced.

        Args:
          position: JSON-ready; what else is needed to resume, with the step under 'step'.
          metrics: those by which the best checkpoint is known, by name.
        """
        assert self._saver is not None, 'opened for reading only'
        self._settle()
        self._guard()
        self._began = time.monotonic()
        step, numbers = int(position['step']), {name: float(value) for name, value in metrics.items()}
        record = {
            'format': integrity.FORMAT,
            'step': step,
            'experiment': self._lineage.fingerprint(self.attachments),
            # A copy: it is written later, when the run has gone on.
            'position': json.loads(json.dumps(position)),
            'metrics': numbers,
        }
        items = {item: flatten(_part(state, item)) for item in state.items}
        contents = saving.SavedContents(items=items, attachments=dict(self.attachments), record=record)
        old = {*self._superseded(step, numbers), *self._undeleted} - {step}
        begun = self._saver.start(self._path(step), contents, first=self._sync_logs, then=lambda: self._delete(old))
        self._saving = step, numbers, begun

    def failures(self) -> list[str]:
        """What went wrong with saves since this was last asked, a sentence each. Returns at once."""
        if self._saving is not None and self._saving[-1].done():
            self._settle()
        said, self._said = self._said, []
        return said

    def due(self) -> bool:
        """Whether a checkpoint should be saved now: because a save failed, or the last is `every_minutes` old.

        The first process alone has a wish, since clocks differ. Returns at once.
        """
        if not processes.is_first() or self._policy is None:
            return False
        if self._saving is not None and not self._saving[-1].done():
            return False
        self._settle()
        now, every = time.monotonic(), self._policy.every_minutes
        if self._failed is not None:
            return now >= self._retry_at
        return every is not None and now - self._began >= 60 * every

    def finish(self) -> str | None:
        """Waits for the last save; returns what went wrong, if it failed."""
        self._settle()
        return self._failed

    def insist(self, state: State, position: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Saves, waits, and tries again for about a minute if it fails: for the last checkpoint of a session.

        Raises:
          NotSaved: it failed every time.
        """
        for wait_s in (*waits.CHECKPOINT_S, 0.0):
            self.save(state, position, metrics)
            if self.finish() is None:
                return
            time.sleep(wait_s)
        kept = f'the newest checkpoint is of step {self.newest}' if self._metrics else 'there is no checkpoint'
        raise NotSaved(
            f'{self._failed} Tried {len(waits.CHECKPOINT_S) + 1} times. The work since then is lost: {kept}. Make '
            f'{self._directory} writable, with room enough; the same command then resumes from there.'
        )

    def _settle(self) -> None:
        """Waits for the save that is under way, and takes note of how it ended."""
        if self._saving is None:
            return
        (step, metrics, future), self._saving = self._saving, None
        outcome = future.result()
        if outcome.failed is not None:
            self._tries += 1
            self._retry_at = time.monotonic() + min(2.0 ** (self._tries - 1), LONGEST_WAIT_S)
            self._failed = f'The checkpoint of step {step} was not saved: {outcome.failed}.'
            self._said.append(self._failed)
            return
        old = self._superseded(step, metrics)
        self._left.clear()
        self._tries, self._failed, self._metrics[step] = 0, None, metrics
        self._deleted(old, outcome.remark)

    def _deleted(self, steps: Collection[int], problem: str | None) -> None:
        """Takes note of what was to be deleted."""
        self._metrics = {step: each for step, each in self._metrics.items() if step not in steps}
        self._undeleted = {*self._undeleted, *steps} - self._metrics.keys() if problem else set()
        self._said += [f'Checkpoints that are not kept could not be deleted: {problem}.'] if problem else []

    def retain(self) -> None:
        """Waits for the last save, and deletes what the policy does not keep, if that could not be done before."""
        self._settle()
        newest = self.newest
        old = self._undeleted.union(() if newest is None else self._superseded(newest, self._metrics[newest]))
        if old and self._saver is not None:
            self._deleted(old, self._saver.on_first(lambda: self._delete(old)))

    def _superseded(self, step: int, metrics: dict[str, float]) -> list[int]:
        """The checkpoints that go when one of `step` has come. Later ones are of a path that the run has left."""
        assert self._policy is not None  # Else there is nothing to save.
        gone = [other for other in self._metrics if other > step or (other in self._left and other != step)]
        kept = {other: self._metrics[other] for other in self._metrics if other < step and other not in gone}
        kept[step] = metrics
        return gone + retention.superseded(kept, self._policy, self._direction, rolls_back=self._rolls_back)

    def _sync_logs(self) -> None:
        for sync in self.logs:
            sync()

    def _delete(self, steps: Collection[int]) -> None:
        self._guard()
        for step in steps:
            if durable_files.exists(self._path(step)):
                self._store.delete(self._path(step))

    # ---- restoring ----

    def restore(self, abstract: State, shardings: State, step: int) -> tuple[State, dict[str, Any]]:
        """The state at `step` laid out as `shardings` say, and its position.

        Raises:
          InputError: it is damaged, or the arrays stored are not those of `abstract`.
        """
        return self._undamaged(step, lambda step: self._state(abstract, shardings, step))

    def restore_newest(
        self, abstract: State, shardings: State, among: Collection[int] | None = None
    ) -> tuple[State, dict[str, Any]] | None:
        """The newest state that is not damaged, and its position; None if there is no checkpoint.

        The damaged ones that are newer are told in `damage` and, unless open for reading only, moved to damaged/.

        Args:
          among: steps to choose from; None: all.

        Raises:
          InputError: every one is damaged, or the arrays stored are not those of `abstract`.
        """
        return self._newest(lambda step: self._state(abstract, shardings, step), among)

    def restore_model(
        self, abstract: State, shardings: State, step: int | None = None, *, cast: bool = False
    ) -> RestoredWeights | None:
        """Parameters and model state at `step`, without the optimizer.

        Args:
          step: which; None: the newest that is not damaged.
          cast: convert arrays that are stored with another dtype than that of `abstract`.

        Returns:
          None if no step was given and there is no checkpoint.

        Raises:
          InputError: it is damaged, or the arrays stored are not those of `abstract`.
        """

        def read(step: int) -> RestoredWeights:
            fields, _ = self._read(abstract, shardings, step, items=('model',), cast=cast)
            return RestoredWeights(step, fields['params'], fields['model_state'], fields['ema'])

        return self._newest(read, None) if step is None else self._undamaged(step, read)

    def _state(self, abstract: State, shardings: State, step: int) -> tuple[State, dict[str, Any]]:
        fields, position = self._read(abstract, shardings, step, items=tuple(abstract.items), cast=False)
        return type(abstract)(**fields), position

    def _read(
        self, abstract: State, shardings: State, step: int, *, items: tuple[str, ...], cast: bool
    ) -> tuple[dict[str, PyTree], dict[str, Any]]:
        """The fields of a state that are in `items`, and the position."""
        targets = {item: _targets(abstract, shardings, item) for item in items}
        how: dict[str, Any] = {'cast': cast, 'partly': () if self.anew is None else ('optimizer',)}
        # The first process alone reads the run's own record, and tells the others.
        how['ours'] = lambda *checkpoint: lineage.Lineage.of(self.workdir).made(*checkpoint)
        found, position = restore.read(self._path(step), targets, step=step, **how)
        fields: dict[str, PyTree] = {}
        for item, arrays in found.items():
            self.begun_anew = [name for name in targets[item] if name not in arrays]
            if self.anew is not None and self.begun_anew:
                arrays = partial_state.completed(arrays, flatten(_part(self.anew(), item)), step)
            fields |= unflatten(arrays, _part(abstract, item))
        return fields, position

    def _undamaged(self, step: int, read: Callable[[int], Any]) -> Any:
        try:
            return read(step)
        except integrity.DamagedCheckpoint as error:
            problem = str(error)
            if self._is_gone(step):
                self._list()
                problem = f'The run deleted checkpoint {self._path(step)} while it was read'
            there = f'there are {", ".join(map(str, self.steps))}' if self._metrics else 'there is none'
            raise config.InputError(f'{problem}. Use another step: {there}.') from error

    def _newest(self, read: Callable[[int], Any], among: Collection[int] | None) -> Any:
        for _ in range(CHANGES):
            try:
                return self._newest_of([*self.steps, *self._unreadable] if among is None else among, read)
            except listing.Gone:
                self._list()
        raise config.InputError(
            f'{self._directory}: the run deleted {CHANGES} checkpoints, each while it was being read. Read one that is '
            'kept for longer, with --step, or let the run keep more (checkpoints.keep_last).'
        )

    def _newest_of(self, steps: Collection[int], read: Callable[[int], Any]) -> Any:
        damaged: list[tuple[int, str]] = []
        for step in sorted(steps, reverse=True):
            if step in self._unreadable:
                raise integrity.Unreadable(self._unreadable[step])
            try:
                found = read(step)
            except integrity.DamagedCheckpoint as error:
                if self._is_gone(step):
                    raise listing.Gone from None
                damaged.append((step, f'{error}.'))
                continue
            self.damage += [text for _, text in damaged]
            self.damage += [f'{text} It is not used.' for other, text in self._unreadable.items() if other < step]
            self._set_aside([step for step, _ in damaged])
            return found
        if damaged:
            lines = '\n'.join(f'  {text}' for _, text in damaged)
            raise config.InputError(
                f'No checkpoint in {self._directory} can be used:\n{lines}\nNothing was changed. Put a good copy back, '
                'or move them all away to start again from step 0.'
            )
        return None

    def _is_gone(self, step: int) -> bool:
        """Whether a run deleted the checkpoint of `step` while it was read here."""
        path = self._path(step)
        return self._policy is None and not processes.from_first(processes.on_first(lambda: durable_files.exists(path)))

    def _set_aside(self, steps: Collection[int]) -> None:
        if self._policy is None:
            return
        self.damage += processes.from_first(processes.on_first(lambda: listing.set_aside(self.workdir, steps)))
        for step in steps:
            del self._metrics[step]

    def _path(self, step: int) -> epath.Path:
        return self._directory / str(step)
