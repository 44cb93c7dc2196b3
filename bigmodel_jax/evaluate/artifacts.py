"""What an evaluation or a prediction shows besides numbers: text, images, sound, figures and tables.

An artifact is JSON, and an image or a sound also has a file of bytes; run_directory/artifact_files.py keeps both.
Nothing of an artifact is ever executed: the report escapes text, and draws figures itself from their numbers.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import encodings

Cell = str | int | float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact(config.Value):
    """Interface of the artifacts.

    Attributes:
      kind: its name in JSON.
      suffix: of its file; '' if it is JSON alone.
      title: what it shows, in a few words.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str] = ''

    title: str = ''

    def to_json(self) -> dict[str, Any]:
        """It as JSON, without the bytes of its file."""
        fields = [each for each in dataclasses.fields(self) if each.name != 'content']
        own = {each.name: getattr(self, each.name) for each in fields if getattr(self, each.name) != each.default}
        return {'type': self.kind, **{name: _plain(value) for name, value in own.items()}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Artifact):
    """A text, with the prompt that it continues, and a reference where there is one."""

    kind: ClassVar[str] = 'text'

    text: str
    prompt: str = ''
    reference: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(Artifact):
    """Rows of text and numbers under the names of the columns."""

    kind: ClassVar[str] = 'table'

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Artifact):
    """A picture; `content` is a PNG file. Image.of() makes one from pixels."""

    kind: ClassVar[str] = 'image'
    suffix: ClassVar[str] = '.png'

    content: bytes = dataclasses.field(repr=False)
    height: int
    width: int

    @classmethod
    def of(cls, image: np.ndarray, title: str = '') -> 'Image':
        """From an array [Y, X] or [Y, X, Z] of 1, 3 or 4 channels: uint8, or floats in [0, 1]."""
        pixels_YXZ = encodings.pixels_of(np.asarray(image))
        Y, X, _ = pixels_YXZ.shape
        return cls(title=title, content=encodings.png(pixels_YXZ), height=Y, width=X)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audio(Artifact):
    """Sound; `content` is a WAV file. Audio.of() makes one from samples."""

    kind: ClassVar[str] = 'audio'
    suffix: ClassVar[str] = '.wav'

    content: bytes = dataclasses.field(repr=False)
    rate_hz: int
    channels: int
    length: int  # Samples of each channel.

    @classmethod
    def of(cls, samples: np.ndarray, rate_hz: int, title: str = '') -> 'Audio':
        """From samples [A] or [A, channels]: int16, or floats in [-1, 1]."""
        samples = np.asarray(samples)
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        content = encodings.wav(samples, rate_hz)
        return cls(title=title, content=content, rate_hz=rate_hz, channels=channels, length=len(samples))

    @property
    def seconds(self) -> float:
        return self.length / self.rate_hz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line(config.Value):
    """A line of a chart: y over x, of equal lengths."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart(config.Value):
    """A panel of a figure: lines over a common axis."""

    title: str = ''
    lines: tuple[Line, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heatmap(config.Value):
    """A panel of a figure: a matrix as shades, with a label for each row and column. Shades are darkest at 1."""

    title: str = ''
    values: tuple[tuple[float, ...], ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure(Artifact):
    """Panels side by side, as numbers that the report draws; `details` are panels that it shows on demand."""

    kind: ClassVar[str] = 'figure'

    panels: tuple[Chart | Heatmap, ...]
    details: tuple[Chart | Heatmap, ...] = ()


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, str):
        return value.encode(errors='replace').decode()  # Half a surrogate pair is no text, and no log holds it.
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, bool) or value is None:  # In a cell of a table, which holds text and numbers.
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # As in metrics.jsonl: JSON has no nan and no infinity.
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


KINDS: Mapping[str, Any] = {each.kind: each for each in (Text, Table, Image, Audio, Figure)}


def from_json(entry: Mapping[str, Any], content: bytes = b'') -> Artifact:
    """The artifact of which to_json() gave `entry`; checked before, see run_directory/record_types.py.

    Args:
      content: of its file, if it has one.

    Raises:
      InputError: it is of a type that only another version knows.
    """
    if entry['type'] not in KINDS:
        raise config.InputError(f'This version cannot show an artifact of the type {entry["type"]!r}.')
    kind = KINDS[entry['type']]
    names = {each.name for each in dataclasses.fields(kind)}
    own = {name: value for name, value in entry.items() if name in names}
    if kind.suffix:
        own['content'] = content
    for name in ('panels', 'details'):
        if name in own:
            own[name] = tuple(map(_panel, own[name]))
    return kind(**{name: _tuples(value) for name, value in own.items()})


def _panel(entry: Mapping[str, Any]) -> Chart | Heatmap:
    if 'values' in entry:
        values = tuple(tuple(map(float, row)) for row in entry['values'])
        return Heatmap(title=entry['title'], values=values, rows=tuple(entry['rows']), columns=tuple(entry['columns']))
    lines = [
        Line(name=line['name'], x=tuple(map(float, line['x'])), y=tuple(map(float, line['y'])))
        for line in entry['lines']
    ]
    return Chart(title=entry['title'], lines=tuple(lines))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def attention(weights_LHTS: np.ndarray, source: Sequence[str], target: Sequence[str], *, title: str = '') -> Figure:
    """How much each token of a target attends to each token of its source: the mean of each layer, and each head.

    Args:
      weights_LHTS: between 0 and 1.
      source, target: the S and T labels of the tokens.
    """

    def panel(weights_TS: np.ndarray, name: str) -> Heatmap:
        values = tuple(tuple(round(float(each), 4) for each in row) for row in weights_TS)
        return Heatmap(title=name, values=values, rows=tuple(target), columns=tuple(source))

    heads = weights_LHTS.shape[1]
    means = [panel(each, f'layer {layer}, mean of {heads} heads') for layer, each in enumerate(weights_LHTS.mean(1), 1)]
    single = [
        panel(weights_TS, f'layer {layer}, head {head}')
        for layer, weights_HTS in enumerate(weights_LHTS, 1)
        for head, weights_TS in enumerate(weights_HTS, 1)
    ]
    return Figure(title=title, panels=tuple(means), details=tuple(single))
