"""What is known of a train step before it runs. JSON-ready; per device (of which a TPU7x chip
has two, any other one) and per step unless said otherwise."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal['all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of the compiled program."""

    kind: Kind
    axes: tuple[str, ...]  # Mesh axes it runs over; () if that is unknown.
    group: int  # Devices that take part together.
    bytes: int  # Of the result on one chip, each time.
    times: int  # Executions in a step: inside a loop, as often as the loop runs.
    asynchronous: bool  # Other work may run between its start and its end.
    over_dcn: bool  # Some devices of a group are of different slices.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one chip's memory at the moment when most is in use; the parts add up to `peak`."""

    parameters: int
    optimizer: int
    other_state: int  # The step counter and the model's own collections.
    batch: int
    gradients: int
    saved: int  # Activations kept for the backward pass.
    temporaries: int
    peak: int
    limit: int  # What the compiler may use.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """The work of one step on one chip."""

    flops: float  # As executed, with what is computed again in the backward pass.
    matmul_flops: float  # Those of matrix products, convolutions and kernels.
    model_flops: float  # Of matmul_flops, those that are not a repetition: what MFU is a share of.
    hbm_bytes: float  # Read and written.
    collectives: tuple[Collective, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """The train step of one experiment on one slice."""

    chip: str
    slice: str
    mesh: dict[str, int]
    memory: Memory
    counts: Counts
    compile_seconds: float | None  # By the clock; None: not compiled.
    compile_cpu_seconds: float | None  # Of all cores; other work on the machine does not count.
    versions: dict[str, str]
    source: Literal['compiled', 'analytic', 'refused']  # Refused: too large; the peak is the compiler's, no more.


def to_json(program: Program) -> dict[str, Any]:
    """The program as JSON-ready data."""
    return dataclasses.asdict(program)


def from_json(data: Mapping[str, Any]) -> Program:
    """The program that to_json() wrote."""
    counts = dict(data['counts'])
    collectives = tuple(Collective(**{**each, 'axes': tuple(each['axes'])}) for each in counts.pop('collectives'))
    parts = {'memory': Memory(**data['memory']), 'counts': Counts(**counts, collectives=collectives)}
    return Program(**{**data, **parts})
