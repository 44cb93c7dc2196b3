"""TensorBoard's event files. They are written from the calling thread, and a full disk does not end the run."""

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.evaluate import artifacts, encodings
from bigmodel_jax.storage import appending, durable_files

FOLDER = 'tensorboard'


def open_board(workdir: epath.Path, *, purge_step: int | None, guard: Callable[[], None] = appending.nothing) -> Any:
    """A tensorboardX.SummaryWriter of the run in `workdir`, which writes from the thread that calls it.

    Args:
      purge_step: TensorBoard drops what an earlier session logged of this step and later ones.
      guard: see appending.Appender.

    Raises:
      InputError: the folder is a symbolic link, or cannot be written.
    """
    import tensorboardX  # Slow; only a run that trains needs it.
    from tensorboardX.proto import event_pb2

    folder = workdir / FOLDER
    if durable_files.is_remote(workdir):
        return tensorboardX.SummaryWriter(str(folder), purge_step=purge_step)
    events = Events(folder, guard=guard)

    class Board(tensorboardX.SummaryWriter):  # type: ignore[misc]
        def _get_file_writer(self) -> Events:
            self.file_writer, self.all_writers = events, {str(folder): events}
            return events

        def close(self) -> None:
            events.close()

    if purge_step is not None:
        started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        events.add_event(event_pb2.Event(step=purge_step, file_version='brain.Event:2'))
        events.add_event(event_pb2.Event(step=purge_step, session_log=started))
    return Board(str(folder))


class Events:
    """An event file, in the place of tensorboardX's, whose thread dies at the first error."""

    def __init__(self, folder: epath.Path, *, guard: Callable[[], None]):
        from tensorboardX.proto import event_pb2

        durable_files.check_no_link(folder)
        try:
            durable_files.retried(lambda: folder.mkdir(exist_ok=True))
        except OSError as error:
            raise config.InputError(f'{folder} cannot be made: {error.strerror}. Make it writable.') from error
        name = f'events.out.tfevents.{time.time():.0f}.{socket.gethostname()}'
        taken = set(durable_files.names_in(folder))
        names = [name, *(f'{name}.{number}' for number in range(1, len(taken) + 2))]
        path = folder / next(each for each in names if each not in taken)
        self._folder, self._file = folder, appending.Appender(path, lines=False, guard=guard)
        self.add_event(event_pb2.Event(wall_time=time.time(), file_version='brain.Event:2'))

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Writes an event, or keeps it until it can be written."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self._file.append(_framed(event.SerializeToString()))

    def add_summary(self, summary: Any, global_step: int | None = None, walltime: float | None = None) -> None:
        """Writes a summary, such as a number or a text, as an event."""
        from tensorboardX.proto import event_pb2

        self.add_event(event_pb2.Event(summary=summary), global_step, walltime)

    def get_logdir(self) -> str:
        return os.fspath(self._folder)

    def flush(self) -> None:
        self._file.sync()

    def close(self) -> None:
        """Writes what is buffered, and reports what could not be written."""
        lost = self._file.close()
        if lost is not None:
            appending.say(f'{lost}; the charts end earlier.')


def show(board: Any, tag: str, artifact: artifacts.Artifact, step: int) -> None:
    """An artifact on TensorBoard: texts and tables as text, images and figures as images, sound as audio."""
    match artifact:
        case artifacts.Text():
            # A text continues its prompt, unless it answers it and there is a reference.
            between = '\n\n' if artifact.reference else ''
            prompt = f'**{artifact.prompt}**' if artifact.prompt else ''
            _add_text(board, tag, f'{prompt}{between}{artifact.text}', step)
        case artifacts.Table():
            rows = [artifact.columns, ('---',) * len(artifact.columns), *artifact.rows]
            _add_text(board, tag, '\n'.join(f'| {" | ".join(map(str, row))} |' for row in rows), step)
        case artifacts.Image():
            _add_image(board, tag, artifact, step)
        case artifacts.Audio():
            sound: dict[str, Any] = {'sample_rate': artifact.rate_hz, 'num_channels': artifact.channels}
            sound |= {'length_frames': artifact.length, 'encoded_audio_string': artifact.content}
            _add(board, {'tag': tag, 'audio': {**sound, 'content_type': 'audio/wav'}}, step)
        case artifacts.Figure():
            for number, pixels in enumerate(map(_pixels, artifact.panels)):
                if pixels.size:  # A panel without a number draws nothing.
                    _add_image(board, f'{tag}/{number}', artifacts.Image.of(pixels), step)


def _pixels(panel: artifacts.Chart | artifacts.Heatmap) -> np.ndarray:
    if isinstance(panel, artifacts.Heatmap):
        return encodings.heatmap_pixels(np.array(panel.values, np.float64))
    return encodings.chart_pixels([(np.array(line.x), np.array(line.y)) for line in panel.lines])


def _add_text(board: Any, tag: str, text: str, step: int) -> None:
    board.add_text(tag, text.encode(errors='replace').decode(), step)  # Without halves of surrogates.


def _add_image(board: Any, tag: str, image: artifacts.Image, step: int) -> None:
    fields = {'height': image.height, 'width': image.width, 'encoded_image_string': image.content}
    _add(board, {'tag': tag, 'image': {**fields, 'colorspace': 3}}, step)


def _add(board: Any, value: dict[str, Any], step: int) -> None:
    from tensorboardX.proto import summary_pb2

    board.file_writer.add_summary(summary_pb2.Summary(value=[value]), step)


def _framed(content: bytes) -> bytes:
    """A record of a TFRecord file: its length and content, each with a checksum."""
    from tensorboardX import record_writer

    length = struct.pack('<Q', len(content))
    sums = [struct.pack('<I', record_writer.masked_crc32c(each)) for each in (length, content)]
    return length + sums[0] + content + sums[1]
