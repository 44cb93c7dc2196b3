"""What each kind of record in metrics.jsonl and trace.jsonl holds, checked when it is read."""

from typing import Annotated, Any, Literal, NotRequired

import annotated_types
import pydantic
from typing_extensions import TypedDict  # Pydantic wants this one before Python 3.12.

Step = Annotated[int, annotated_types.Ge(0), annotated_types.Lt(2**53)]
Time = Annotated[float, annotated_types.Ge(0), annotated_types.Lt(253_402_300_800)]  # To the end of the year 9999.
Number = pydantic.FiniteFloat | Literal['nan', 'inf', '-inf']
Metrics = dict[str, Number]


class Base(TypedDict):
    """What every record holds."""

    kind: str
    step: Step
    time: Time


class Event(Base):
    """A record of any other kind, such as one that only a newer version knows."""

    name: NotRequired[str]
    metrics: NotRequired[Metrics]
    digest: NotRequired[str]


class MeasurementRecord(Base):
    """Metrics of training, of its speed, or of where its time went."""

    metrics: Metrics


class About(TypedDict):
    """What a metric is, see evaluate/metric.py."""

    direction: NotRequired[Literal['lower', 'higher']]
    unit: NotRequired[str]
    signature: NotRequired[str]


class Evaluated(Base):
    """Metrics that an evaluation found."""

    name: str
    metrics: Metrics
    about: NotRequired[dict[str, About]]  # Records of older versions have none.


class Signature(TypedDict):
    """How a metric was computed."""

    metric: str
    signature: str


class Signatures(Base):
    """How the metrics of an evaluation were computed; older versions recorded it apart from the metrics."""

    name: str
    signatures: list[Signature]


class Sample(TypedDict):
    """One generated text."""

    prompt: str
    text: str
    reference: NotRequired[str]


class SamplesRecord(Base):
    """Texts that an evaluation generated."""

    name: str
    samples: list[Sample]


class Piece(TypedDict):
    """A token."""

    id: int
    piece: str


class Map(TypedDict):
    """The attention of one sentence, see evaluate/text/maps.py."""

    prompt: str
    text: str
    source: list[Piece]
    target: list[Piece]
    weights: list[list[list[list[pydantic.FiniteFloat]]]]


class Maps(Base):
    """Attention maps that an evaluation made."""

    name: str
    maps: list[Map]


class ArtifactEntry(TypedDict):
    """An artifact of a kind that only a newer version knows, or what all kinds have."""

    type: str
    title: NotRequired[str]


class TextEntry(ArtifactEntry):
    """See evaluate/artifacts.py, as of the others."""

    text: str
    prompt: NotRequired[str]
    reference: NotRequired[str]


class TableEntry(ArtifactEntry):
    """A table."""

    columns: list[str]
    rows: list[list[str | int | float]]


class FileEntry(ArtifactEntry):
    """What has a file."""

    file: str
    sha256: str


class ImageEntry(FileEntry):
    """A picture."""

    height: int
    width: int


class AudioEntry(FileEntry):
    """Sound."""

    rate_hz: Annotated[int, annotated_types.Ge(1)]
    channels: int
    length: int


class LineEntry(TypedDict):
    """A line of a chart."""

    name: str
    x: list[Number]
    y: list[Number]


class ChartEntry(TypedDict):
    """A panel with lines."""

    title: str
    lines: list[LineEntry]


class HeatmapEntry(TypedDict):
    """A panel with a matrix."""

    title: str
    values: list[list[Number]]
    rows: list[str]
    columns: list[str]


class FigureEntry(ArtifactEntry):
    """A figure."""

    panels: list[ChartEntry | HeatmapEntry]
    details: NotRequired[list[ChartEntry | HeatmapEntry]]


class Artifacts(Base):
    """What an evaluation shows besides numbers."""

    name: str
    artifacts: list[dict[str, Any]]


ENTRIES = {
    kind: pydantic.TypeAdapter(form)
    for kind, form in {
        'text': TextEntry,
        'table': TableEntry,
        'image': ImageEntry,
        'audio': AudioEntry,
        'figure': FigureEntry,
    }.items()
}
_ANY_ENTRY = pydantic.TypeAdapter(ArtifactEntry)


class Said(Base):
    """An event in words."""

    text: str


class Stopped(Base):
    """The end of a session before that of the experiment."""

    reason: str
    digest: str


class Finished(Base):
    """The end of a run."""

    digest: str
    reason: NotRequired[str | None]  # Why it is before the last step: early stopping.


class Began(Event):
    """The beginning of a session."""

    fields: NotRequired[list[str]]  # Of a batch; in trace.jsonl.


class Certificates(Base):
    """See train/monitoring/trace.py."""

    ids: list[str]
    content: list[str]
    skipped: Step


class FingerprintRecord(Base):
    """See train/monitoring/trace.py."""

    names: list[str]
    checksums: list[str]
    norms: list[Number] | None
    optimizer: str
    key: str


TYPES = {
    'train': MeasurementRecord,
    'speed': MeasurementRecord,
    'time': MeasurementRecord,
    'evaluation': Evaluated,
    'signatures': Signatures,
    'artifacts': Artifacts,
    'samples': SamplesRecord,
    'maps': Maps,
    **dict.fromkeys(('skipped', 'warning', 'damage', 'code', 'checkpoint_failed', 'slow', 'gap'), Said),
    'stop': Stopped,
    'end': Finished,
    **dict.fromkeys(('start', 'resume'), Began),
    'certificates': Certificates,
    'fingerprint': FingerprintRecord,
}
_ANY = pydantic.TypeAdapter(Event)
_ADAPTERS = {kind: pydantic.TypeAdapter(form) for kind, form in TYPES.items()}


def problem(record: dict[str, Any]) -> str | None:
    """What is wrong with a record: the field, and what it should be; None if it is whole."""
    kind = record.get('kind')
    adapter = _ADAPTERS.get(kind, _ANY) if isinstance(kind, str) else _ANY
    try:
        adapter.validate_python(record, strict=True)
        for entry in record['artifacts'] if kind == 'artifacts' else ():
            _entry_adapter(entry).validate_python(entry, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = '.'.join(map(str, first['loc']))
        return f'{path}: {first["msg"].removeprefix("Input ")}'
    if kind == 'maps' and not all(_rectangular(each['weights']) for each in record['maps']):
        return 'maps: the weights are not an array'
    return None


def _entry_adapter(entry: dict[str, Any]) -> pydantic.TypeAdapter:
    kind = entry.get('type')
    return ENTRIES.get(kind, _ANY_ENTRY) if isinstance(kind, str) else _ANY_ENTRY


def _rectangular(nested: list[Any]) -> bool:
    """Whether lists of lists of equal length, none of which is empty, make an array of four axes."""
    level = [nested]
    for _ in range(3):
        if len(set(map(len, level))) != 1 or not level[0]:
            return False
        level = [inner for outer in level for inner in outer]
    return len(set(map(len, level))) == 1
