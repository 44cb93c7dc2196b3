"""What a paper says of an experiment, checked before any run: `check` touches neither data nor devices."""

import collections
import fnmatch
import functools
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel_jax import claims as papers
from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import model as models

AGREES, DIFFERS, CONTRADICTION = 'agrees', 'DIFFERS', 'the paper contradicts itself'
MEASURED = 'measured: not run'  # What `report` has a verdict for.


class ExperimentFacts(papers.Facts):
    """Those of one experiment; its shapes are worked out once.

    Args:
      arms: the facts of the experiments that claims may compare it with.
    """

    def __init__(self, experiment: Experiment, arms: Mapping[str, 'ExperimentFacts'] | None = None):
        self.experiment = experiment
        self._arms = {} if arms is None else arms

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Path -> shape of each parameter; without a mesh, for they are the same on any."""
        model, fields = self.experiment.model, batches.batch_fields(self.experiment.data.fields)
        model.check(fields)

        def init() -> Any:
            batch = {name: jnp.zeros((1, *field.shape), field.dtype) for name, field in fields.items()}
            return models.initialize(model.build(), jax.random.key(0), batch)[0]

        flat = jax.tree_util.tree_leaves_with_path(jax.eval_shape(init))
        return {jax.tree_util.keystr(path, simple=True, separator='.'): tuple(leaf.shape) for path, leaf in flat}

    def parameters(self, without: tuple[str, ...] = ()) -> int:
        sizes = {path: int(np.prod(shape, dtype=object)) for path, shape in self._shapes.items()}
        left_out = {path for path in sizes if any(fnmatch.fnmatchcase(path, pattern) for pattern in without)}
        return sum(size for path, size in sizes.items() if path not in left_out)

    def shape(self, parameter: str) -> tuple[int, ...]:
        if parameter not in self._shapes:
            near = config.nearest(parameter, self._shapes)
            raise config.InputError(f'There is no parameter {parameter!r}.{near}')
        return self._shapes[parameter]

    def setting(self, path: str) -> Any:
        return setting(self.experiment, path)

    def learning_rate(self, step: int) -> float:
        schedule = self.experiment.optimizer.schedule.build(self.experiment.steps)
        return float(schedule(jnp.int32(step - 1)))

    def tokens_per_step(self) -> int:
        data = self.experiment.data
        if data.units.name != 'tokens':
            raise config.InputError(f'The units of the data are {data.units.name}, not tokens.')
        return round(data.units_per_step)

    def arm(self, name: str) -> 'ExperimentFacts':
        if name not in self._arms:
            raise config.InputError(
                f'There is no arm {name!r} beside this experiment.{config.nearest(name, self._arms)}'
            )
        return self._arms[name]


def setting(experiment: Experiment, path: str) -> Any:
    """The value of a field by its dotted path, as in --set.

    Raises:
      InputError: there is no such field; names the nearest.
    """
    node: Any = experiment
    for depth, part in enumerate(path.split('.')):
        children = dict(config.walk(node))
        if part not in children:
            above = '.'.join(path.split('.')[:depth]) or 'the experiment'
            raise config.InputError(f'{path}: {above} has no {part!r}.{config.nearest(part, children)}')
        node = children[part]
    return node


class Checked(NamedTuple):
    """A claim with what came of it."""

    arm: str
    claim: papers.Claim
    verdict: str
    found: Any = None  # Of a measured one: nothing.

    @property
    def quantity(self) -> str:
        return self.claim.quantity if isinstance(self.claim, papers.Static) else _measured(self.claim).metric

    @property
    def said(self) -> str:
        """What the paper says, for a reader."""
        if isinstance(self.claim, papers.Static):
            return self.claim.said
        claim = _measured(self.claim)
        return papers.plus_minus(claim.value, claim.tolerance)

    @property
    def shown(self) -> str:
        """What the experiment has, for a reader."""
        return self.claim.shown(self.found) if isinstance(self.claim, papers.Static) else ''

    @property
    def note(self) -> str:
        """What else a reader should know: what the experiment does instead, or why nothing can be compared."""
        if isinstance(self.claim, papers.Consistency) and self.verdict == CONTRADICTION:
            return f'instead: {self.claim.instead}' if self.claim.instead else ''
        missing = isinstance(self.claim, papers.Measured) and self.claim.missing
        return f'cannot be compared: {missing}' if missing else ''

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        stated = self.claim.stated if isinstance(self.claim, papers.Static) else _measured(self.claim).value
        return {
            'arm': self.arm,
            'claim': type(self.claim).__name__,
            'quantity': self.quantity,
            'where': self.claim.where,
            'stated': stated,
            'found': self.found,
            'verdict': self.verdict,
            'said': self.said,
            'shown': self.shown,
            'note': self.note,
        }


def _measured(claim: papers.Claim) -> papers.Measured:
    assert isinstance(claim, papers.Measured), claim
    return claim


def check(experiments: Mapping[str, Experiment], only: Collection[str] | None = None) -> list[Checked]:
    """Every claim of every experiment, in their order, with its verdict.

    Args:
      experiments: name -> experiment: the arms that claims may compare.
      only: check these; by default all.

    Raises:
      InputError: a claim names a field, parameter or arm that does not exist.
    """
    facts: dict[str, ExperimentFacts] = {}
    facts |= {name: ExperimentFacts(experiment, facts) for name, experiment in experiments.items()}
    return [
        check_one(claim, facts[name], name)
        for name, experiment in experiments.items()
        if only is None or name in only
        for claim in experiment.claims
    ]


def check_one(claim: papers.Claim, facts: ExperimentFacts, arm: str = '') -> Checked:
    """One claim with its verdict; raises as check()."""
    try:
        if isinstance(claim, papers.Static):
            return _static(claim, facts, arm)
        for path, _ in _measured(claim).on:
            facts.setting(path)
    except config.InputError as error:
        of = f' of {arm}' if arm else ''
        raise config.InputError(f'The claim {type(claim).__name__} on {claim.where!r}{of}: {error}') from error
    return Checked(arm, claim, MEASURED)


def _static(claim: papers.Static, facts: ExperimentFacts, arm: str) -> Checked:
    found = claim.found(facts)
    if claim.agrees(found):
        return Checked(arm, claim, AGREES, found)
    itself = isinstance(claim, papers.Consistency) and claim.contradicts(found)
    return Checked(arm, claim, CONTRADICTION if itself else DIFFERS, found)


def summary(found: Iterable[Checked]) -> str:
    """'12 agree, 1 DIFFERS, the paper contradicts itself in 1, 3 measured: not run'."""
    counts = collections.Counter(each.verdict for each in found)
    parts = [
        f'{counts[AGREES]} {"agrees" if counts[AGREES] == 1 else "agree"}' if counts[AGREES] else '',
        f'{counts[DIFFERS]} {"DIFFERS" if counts[DIFFERS] == 1 else "DIFFER"}' if counts[DIFFERS] else '',
        f'the paper contradicts itself in {counts[CONTRADICTION]}' if counts[CONTRADICTION] else '',
        f'{counts[MEASURED]} measured: not run' if counts[MEASURED] else '',
    ]
    return ', '.join(filter(None, parts))


def write(path: str, found: Iterable[Checked]) -> None:
    """Writes the verdicts as JSON.

    Raises:
      InputError: the file cannot be written.
    """
    text = json.dumps([each.to_json() for each in found], indent=1, default=config.format_value) + '\n'
    try:
        epath.Path(path).write_text(text)
    except OSError as error:
        raise config.InputError(f'--json {path} cannot be written: {error}.') from error
