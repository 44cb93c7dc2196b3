"""Which way attention is computed on the mesh in use, and why."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from bigmodel_jax import config
from bigmodel_jax.kernels import cudnn, exchange, ring, splash
from bigmodel_jax.kernels.kernel import Case, Kernel

# What each platform has for whole rows; elsewhere, and where it cannot, attention is computed plainly.
FUSED: dict[str | None, Kernel] = {'tpu': splash.Splash(), 'gpu': cudnn.Cudnn()}
# For rows that are cut, the first that can. The exchange moves less: each token's vectors once, not once per device.
CUT: tuple[Kernel, ...] = (exchange.AllToAll(), ring.Ring())
NAMES = {'cpu': 'CPU', 'gpu': 'GPU', 'tpu': 'TPU'}


class Path(NamedTuple):
    """How one attention is computed."""

    kernel: Kernel
    text: str  # 'splash (TPU, causal, window 1024)', 'plain, since splash has no bias'.


def choose(case: Case, plain: Kernel, forced: Kernel | None = None) -> Path:
    """The path of a case.

    Args:
      plain: what can compute every case.
      forced: what the experiment asks for.

    Raises:
      InputError: the forced kernel cannot compute it.
    """
    if forced is not None:
        return _forced(case, plain, forced)
    if case.shards['length'] > 1:
        return _over_cut_rows(case, plain)
    fused = FUSED.get(case.platform)
    if fused is None:
        where = 'there is no mesh' if case.platform is None else f'a {NAMES[case.platform]} has no fused kernel'
        return Path(plain, f'{plain.label(case)}, since {where}')
    obstacle = fused.obstacle(case)
    if obstacle is not None:
        return Path(plain, f'{plain.label(case)}, since {obstacle}')
    return Path(fused, f'{fused.label(case)} ({_details(case)})')


def _over_cut_rows(case: Case, plain: Kernel) -> Path:
    obstacles = []
    for kernel in CUT:
        obstacle = kernel.obstacle(case)
        if obstacle is None:
            because = ''.join(f', since {each}' for each in obstacles)
            return Path(*_filled(kernel, case, plain, because))
        obstacles.append(obstacle)
    return Path(plain, f'{plain.label(case)}, since {" and ".join(obstacles)}')


def _forced(case: Case, plain: Kernel, forced: Kernel) -> Path:
    obstacle = forced.obstacle(case)
    if obstacle is not None:
        raise config.InputError(
            f'attention.kernel={config.format_value(forced)} cannot compute this attention, since {obstacle}. '
            'Leave attention.kernel out, and `show` says what is used instead and why.'
        )
    return Path(*_filled(forced, case, plain, ', as attention.kernel says'))


def _filled(kernel: Kernel, case: Case, plain: Kernel, because: str) -> tuple[Kernel, str]:
    """The kernel with what it computes whole rows by, and the text."""
    if isinstance(kernel, exchange.AllToAll) and kernel.local is None:
        local = choose(case.without_cuts_of_length(), plain)
        text = f'all-to-all over {case.shards["length"]}, then {local.text}{because}'
        return dataclasses.replace(kernel, local=local.kernel), text
    return kernel, f'{kernel.label(case)} ({_details(case)}){because}'


def _details(case: Case) -> str:
    scores = case.scores
    details = [
        NAMES.get(case.platform or '', 'no mesh'),
        'causal' if scores.causal else 'both ways',
        f'window {scores.window}' if scores.window is not None else '',
        f'scale {scores.scale:g}' if scores.scale is not None else '',
        f'soft cap {scores.soft_cap:g}' if scores.soft_cap is not None else '',
        'packed' if case.segments else '',
    ]
    return ', '.join(filter(None, details))


# ---- who took which ---------------------------------------------------------------------------------------------

_taken: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar('taken', default=None)


@contextlib.contextmanager
def noted() -> Iterator[dict[str, str]]:
    """Collects the path of each attention that is traced within this context: name of the layer -> text."""
    found: dict[str, str] = {}
    token = _taken.set(found)
    try:
        yield found
    finally:
        _taken.reset(token)


def note(name: str, path: Path) -> None:
    """Tells noted() of a path that is taken."""
    found = _taken.get()
    if found is not None:
        found[name] = path.text
