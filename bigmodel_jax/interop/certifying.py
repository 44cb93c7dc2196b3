"""Comparing a published model with what the reference implementation made of the same inputs."""

import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.interop import huggingface
from bigmodel_jax.models import model as models

# Rounding as the reference itself shows it: so many times what its float32 is off, and at least so much of the largest
# logit. A wrong epsilon or activation is off by more.
TIMES, FLOAT32, FLOAT64 = 20.0, 2e-5, 1e-9
SCALE = ('logits', 'prediction_logits', 'seq_relationship_logits')  # The outputs whose size counts.
TOLERANCE = 'tolerance/'
NUMBERS = 'fiub'  # Kinds of NumPy's dtypes.
# What NumPy and zipfile raise where the bytes of an .npz are not what they should be.
UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, EOFError, MemoryError,
    OverflowError, RecursionError, NotImplementedError, RuntimeError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class OutputDifference(NamedTuple):
    """One output."""

    name: str
    difference: float | None  # The largest; None where it cannot be said.
    remark: str = ''  # Why not, or what was left out.


class Certificate(NamedTuple):
    """How far a model is from the reference; in the order in which it computes."""

    rows: tuple[OutputDifference, ...]
    tolerance: float
    dtype: str
    unknown: tuple[str, ...]  # Outputs of ours with which nothing was compared.
    notes: tuple[str, ...]  # What of the directory was not used.

    @property
    def first(self) -> str | None:
        """The first output that is not as the reference has it."""
        return next((row.name for row in self.rows if not self.holds(row)), None)

    def holds(self, row: OutputDifference) -> bool:
        """Whether an output is within the tolerance; NaN is not."""
        return row.difference is not None and row.difference <= self.tolerance


def certify(
    directory: epath.PathLike,
    against: epath.PathLike,
    *,
    dtype: models.Dtype = 'float32',
    tolerance: float | None = None,
) -> Certificate:
    """Runs the model in a directory of Hugging Face on recorded inputs, and compares each recorded output.

    Args:
      against: an .npz of 'in/<input>', and 'out64/<output>' (the reference in float64), 'out/<output>' (in float32), or
        both; 'tolerance/float32' and 'tolerance/float64' where the default is not wanted.
      dtype: of our computation.
      tolerance: the largest difference that is rounding; None: as the file says, or else TIMES what the reference's
        float32 is off its float64, and at least FLOAT32 (in float64: FLOAT64) of the largest logit.

    Raises:
      InputError: the file or the directory cannot be used.
    """
    recorded = _read(pathlib.Path(against).expanduser())
    inputs, in32, in64 = (_below(recorded, prefix) for prefix in ('in/', 'out/', 'out64/'))
    expected = in32 | in64
    if not inputs or not expected:
        raise config.InputError(
            f'{against} holds no in/..., or neither out/... nor out64/...; it has {list(recorded)[:8]}.'
        )
    if tolerance is None:
        kept = recorded.get(f'{TOLERANCE}{dtype}', np.asarray(_rounding(in32, in64, dtype)))
        allowed = _tolerance(kept, f'{against}: {TOLERANCE}{dtype}')
    else:
        allowed = _tolerance(np.asarray(tolerance), 'tolerance')
    pretrained = huggingface.load_pretrained(directory, dtype=dtype)
    found = {name: np.asarray(value) for name, value in pretrained.apply(inputs).items()}
    mask_BT, paired = inputs.get('attention_mask'), any(name.startswith('encoder') for name in found)
    rows = [
        _row(name, found.get(name), expected[name], mask_BT=mask_BT, paired=paired)
        for name in sorted(expected, key=_order)
    ]
    unknown = tuple(name for name in sorted(found, key=_order) if name not in expected)
    return Certificate(tuple(rows), allowed, dtype, unknown, tuple(pretrained.notes))


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except FileNotFoundError:
        raise config.InputError(f'{path} does not exist; pass the .npz that the reference wrote.') from None
    except UNREADABLE as error:
        raise config.InputError(f'{path} cannot be read as an .npz of arrays: {error}.') from error
    for name, array in found.items():
        if array.dtype.kind not in NUMBERS:
            raise config.InputError(f'{path}: {name} holds {array.dtype}, not numbers; record it as numbers.')
    return found


def _tolerance(array: np.ndarray, where: str) -> float:
    if array.size != 1 or not np.isfinite(array).all() or array.min() < 0:
        raise config.InputError(f'{where}: {array.tolist()} should be one finite number, at least 0.')
    return float(array.reshape(()))


def _below(recorded: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}


def _rounding(in32: Mapping[str, np.ndarray], in64: Mapping[str, np.ndarray], dtype: str) -> float:
    logits = [np.abs(value).max() for name, value in (*in32.items(), *in64.items()) if name in SCALE and value.size]
    scale = float(max(logits, default=1.0))
    if dtype == 'float64':
        return FLOAT64 * max(scale, 1.0)
    both = [name for name in in32 if name in in64 and in32[name].size]
    off = [np.abs(in32[name].astype(np.float64) - in64[name]).max() for name in both]
    return float(max(FLOAT32 * scale, TIMES * max(off, default=0.0)))


def _row(
    name: str,
    found: np.ndarray | None,
    wanted: np.ndarray,
    *,
    mask_BT: np.ndarray | None,
    paired: bool,
) -> OutputDifference:
    if found is None:
        return OutputDifference(name, None, 'the model has no such output')
    if found.shape != wanted.shape:
        return OutputDifference(name, None, f'{list(found.shape)}, the reference has {list(wanted.shape)}')
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    remark = ''
    # With a decoder, the mask speaks of the encoder's positions alone.
    if mask_BT is not None and difference.shape[:2] == mask_BT.shape and (name.startswith('encoder') or not paired):
        difference, remark = difference[mask_BT > 0], 'without padding'
    if not difference.size:
        return OutputDifference(name, None, 'there is no number to compare')
    return OutputDifference(name, float(difference.max()), remark)


def _order(name: str) -> tuple[int, str, int, str]:
    """By the order of computation: the encoder, the layers, the logits, the losses."""
    kind, _, number = name.partition('/')
    rank = next((i for i, part in enumerate(('encoder', 'hidden', 'decoder', 'router', 'last')) if part in kind), 8)
    rank += 2 if 'loss' in kind else 0
    place = int(number) if number.isdigit() else 10**6
    return rank, '' if number else kind, place, kind
