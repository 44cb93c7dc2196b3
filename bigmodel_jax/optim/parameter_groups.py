"""Parameter groups: which parameters are frozen, subject to weight decay, or trained at another learning rate."""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from bigmodel_jax import bounds, config
from bigmodel_jax.optim import masks

PyTree = Any
FROZEN = 'frozen'  # What Assigned.described() says of a parameter that is not trained.
SETTINGS = (
    'decay',
    'learning_rate_multiple',
    'weight_decay_multiple',
)  # Fields of a group of which a parameter may get only one value.

Multiple = Annotated[
    config.PositiveFloat, bounds.Advice('0 would compute updates and drop them. Use frozen=True, which saves them.')
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The parameters whose path matches and that have all of the logical axes; and what holds for them.

    Groups may overlap where they do not contradict one another. A frozen parameter keeps its bits: it has no gradient
    and no optimizer state, and what other groups say of it has no effect. Parameters of stacked layers are one array,
    which belongs to a group as a whole; a tuple of multiples has one for each of its layers.

    Multiples of the learning rate are how discriminative fine-tuning (Howard and Ruder, 2018, arXiv:1801.06146, section
    3.2) and the widths of muP (Yang et al., 2022, arXiv:2203.03466, table 8) are written.
    """

    match: str = '*'  # A path as `describe` prints it, with * and ? as in file names: 'blocks.layers.ffn.*'.
    without: tuple[str, ...] = ()  # Patterns of paths that are left out.
    axes: tuple[str, ...] = ()
    frozen: bool = False
    decay: bool | None = None  # Whether weight_decay applies; None: to matrices and tables, not to biases and scales.
    # Of the rate of the schedule, decoupled weight decay included; or one for each layer of stacked layers.
    learning_rate_multiple: Multiple | tuple[Multiple, ...] | None = None
    # Of weight_decay. What decays in a step is the product of all: rate, its multiple, weight_decay and this.
    weight_decay_multiple: Multiple | None = None

    def __post_init__(self) -> None:
        said = [name for name in SETTINGS if getattr(self, name) is not None]
        if self.frozen and said:
            raise config.InputError(f'{config.format_value(self)}: a frozen parameter has no {said[0]}; leave it out.')
        if not self.frozen and not said:
            raise config.InputError(
                f'{config.format_value(self)} changes nothing; give it frozen=True, decay=..., '
                'learning_rate_multiple=... or weight_decay_multiple=....'
            )

    def selects(self, path: str, axes: Sequence[str | None]) -> bool:
        """Whether a parameter belongs to the group."""
        left_out = any(fnmatch.fnmatchcase(path, pattern) for pattern in self.without)
        return fnmatch.fnmatchcase(path, self.match) and not left_out and set(self.axes) <= set(axes)


@dataclasses.dataclass(frozen=True)
class Assigned:
    """What holds for each parameter of a model, by its groups."""

    axes: PyTree  # The logical axes of each trained parameter.
    decayed: PyTree  # Whether weight decay applies to it.
    multiples: PyTree  # Of the learning rate; a tuple where it differs between the layers of an array.
    decay_multiples: PyTree  # Of the weight decay.
    frozen: frozenset[str]  # Paths.

    def trained(self, params: PyTree) -> PyTree:
        """The parameters (or anything of their form) without the frozen ones."""
        return _kept(params, lambda path: path not in self.frozen) if self.frozen else params

    def described(self) -> dict[str, str]:
        """Path of each parameter -> what holds for it, such as 'decay, rate x 0.1'."""
        rates, weights = _flat(self.multiples), _flat(self.decay_multiples)
        texts = {
            path: (('decay' + _times(weights[path])) if decays else 'no decay') + _times(rates[path], ', rate')
            for path, decays in _flat(self.decayed).items()
        }
        return texts | dict.fromkeys(self.frozen, FROZEN)

    def by_decay(self) -> dict[float, 'Assigned']:
        """Multiple of the weight decay -> these, with only the parameters of that multiple decayed."""
        found = sorted({1.0, *jax.tree.leaves(self.decay_multiples)})
        return {multiple: dataclasses.replace(self, decayed=self._decayed_by(multiple)) for multiple in found}

    def _decayed_by(self, multiple: float) -> PyTree:
        return jax.tree.map(lambda decays, mine: decays and mine == multiple, self.decayed, self.decay_multiples)

    def check(self, params: PyTree) -> None:
        """Raises InputError if a group has not as many multiples as `params` (or their shapes) have layers."""
        shapes = _flat(params)
        for path, multiple in _flat(self.multiples).items():
            if isinstance(multiple, tuple) and shapes[path].shape[0] != len(multiple):
                raise config.InputError(
                    f'optimizer.groups: {path} has {shapes[path].shape[0]} layers, but learning_rate_multiple has '
                    f'{len(multiple)} values; give one for each layer.'
                )


def assign(groups: Sequence[Group], axes: PyTree) -> Assigned:
    """What `groups` say of the parameters of a model.

    Args:
      axes: the logical axes of each parameter.

    Raises:
      InputError: a group selects nothing, names an unknown axis, contradicts another, or all parameters are frozen.
    """
    names = _flat(axes)
    members = [{path for path, of in names.items() if each.selects(path, of)} for each in _checked(groups, names)]
    for number, (group, paths) in enumerate(zip(groups, members)):
        if not paths:
            raise config.InputError(
                f'optimizer.groups.{number}: no parameter has both match={group.match!r} and the '
                f'other conditions of {config.format_value(group)}.'
            )
    frozen = frozenset().union(*(paths for group, paths in zip(groups, members) if group.frozen))
    if groups and frozen == set(names):
        raise config.InputError(
            f'optimizer.groups: all {len(names)} parameters are frozen, so that nothing would be trained; leave some '
            'out of the groups with frozen=True, for example with without=(...).'
        )
    _check_layers(groups, members, names)
    decays, multiples, weights = (_settled(groups, members, name) for name in SETTINGS)
    kept = _kept(axes, lambda path: path not in frozen) if frozen else axes
    by_default = masks.decayed(kept)
    return Assigned(
        axes=kept,
        decayed=_mapped(by_default, lambda path, default: decays.get(path, default)),
        multiples=_mapped(by_default, lambda path, _: multiples.get(path, 1.0)),
        decay_multiples=_mapped(by_default, lambda path, _: weights.get(path, 1.0)),
        frozen=frozen,
    )


def _checked(groups: Sequence[Group], names: Mapping[str, Sequence[str | None]]) -> Sequence[Group]:
    """The groups, if each pattern and axis of theirs is one of the model's."""
    known = {axis for of in names.values() for axis in of if axis is not None}
    for number, group in enumerate(groups):
        where = f'optimizer.groups.{number}'
        for field, pattern in (('match', group.match), *(('without', each) for each in group.without)):
            if not any(fnmatch.fnmatchcase(path, pattern) for path in names):
                near = config.nearest(pattern, names)
                raise config.InputError(f'{where}.{field}: no parameter of the model matches {pattern!r}.{near}')
        for axis in group.axes:
            if axis not in known:
                near = config.nearest(axis, known)
                raise config.InputError(f'{where}.axes: no parameter of the model has the axis {axis!r}.{near}')
    return groups


def _check_layers(
    groups: Sequence[Group], members: Sequence[set[str]], names: Mapping[str, Sequence[str | None]]
) -> None:
    for number, (group, paths) in enumerate(zip(groups, members)):
        single = sorted(path for path in paths if tuple(names[path][:1]) != ('layers',))
        if isinstance(group.learning_rate_multiple, tuple) and single:
            raise config.InputError(
                f'optimizer.groups.{number}.learning_rate_multiple has a value for each layer, but {single[0]} is not '
                "an array of stacked layers; select those with axes=('layers',)."
            )


def _settled(groups: Sequence[Group], members: Sequence[set[str]], name: str) -> dict[str, Any]:
    """Path -> the value of a setting, of the parameters for which a group has one."""
    found: dict[str, tuple[int, Any]] = {}
    for number, (group, paths) in enumerate(zip(groups, members)):
        value = getattr(group, name)
        for path in sorted(paths) if value is not None else ():
            other, before = found.setdefault(path, (number, value))
            if before != value:
                raise config.InputError(
                    f'optimizer.groups: {path} is in groups {other} and {number}, of which one says {name}={before} '
                    f'and the other {name}={value}; leave it out of one of them, with without=(...).'
                )
    return {path: value for path, (_, value) in found.items()}


# ---- what an optimizer makes of it ----------------------------------------------------------------------------------


def only_trained(rule: optax.GradientTransformation, assigned: Assigned) -> optax.GradientTransformation:
    """`rule` for the trained parameters alone, with their learning rates; it is given all parameters.

    Gradients and updates are of the form of Assigned.trained().
    """
    if any(multiple != 1 for multiple in jax.tree.leaves(assigned.multiples)):
        rule = optax.chain(rule, optax.stateless(lambda updates, _: _scaled(updates, assigned.multiples)))
    if not assigned.frozen:
        return rule

    def init(params: PyTree) -> PyTree:
        return rule.init(assigned.trained(params))

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        return rule.update(grads, state, None if params is None else assigned.trained(params))

    return optax.GradientTransformation(init, update)


def _scaled(updates: PyTree, multiples: PyTree) -> PyTree:
    def one(update: jax.Array, multiple: float | tuple[float, ...]) -> jax.Array:
        if isinstance(multiple, tuple):
            return jnp.array(multiple, update.dtype).reshape(-1, *[1] * (update.ndim - 1)) * update
        return update if multiple == 1 else multiple * update

    return jax.tree.map(one, updates, multiples)


def _times(multiple: float | tuple[float, ...], what: str = '') -> str:
    return f'{what} x {_text(multiple)}' if multiple != 1 else ''


def _text(multiple: float | tuple[float, ...]) -> str:
    return f'{multiple[0]:g} ... {multiple[-1]:g}' if isinstance(multiple, tuple) else f'{multiple:g}'


def merged(params: PyTree, part: PyTree) -> PyTree:
    """`params` with those of `part`, which has the same form without some of its leaves."""
    if not isinstance(part, Mapping):
        return part
    return {name: merged(child, part[name]) if name in part else child for name, child in params.items()}


# ---- trees ----------------------------------------------------------------------------------------------------------


def _is_leaf(node: Any) -> bool:
    return not isinstance(node, Mapping)


def _flat(tree: PyTree) -> dict[str, Any]:
    """Path -> leaf, where a tuple of logical axes is a leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}


def _mapped(tree: PyTree, function: Callable[[str, Any], Any], path: str = '') -> PyTree:
    if not isinstance(tree, Mapping):
        return function(path, tree)
    return {name: _mapped(child, function, config.join(path, name)) for name, child in tree.items()}


def _kept(tree: Mapping[str, Any], keep: Callable[[str], bool], path: str = '') -> dict[str, Any]:
    """The leaves at the paths to keep, and the nodes that have any."""
    found = {}
    for name, child in tree.items():
        here = config.join(path, name)
        if isinstance(child, Mapping):
            child = _kept(child, keep, here)
            found |= {name: child} if child else {}
        elif keep(here):
            found[name] = child
    return found
