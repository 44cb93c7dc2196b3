"""What went wrong in a person's own code: the place in the file, the line itself, and how it was reached."""

import linecache
import pathlib
import traceback
from collections.abc import Iterator

from bigmodel_jax.user_code import own_modules

SHOWN = 6  # Lines of own code that a message shows, the last ones.


def located(error: BaseException, message: str, file: pathlib.Path) -> str:
    """`message` after the place in own code where the error was raised, and before the lines that led there.

    Args:
      file: the experiment file, as it was named on the command line.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return '\n'.join([f'{_place(error.filename, error.lineno, file)}: {message}', *_shown(error.text or '')])
    frames = own_frames(error)
    if not frames:
        return f'{file}: {message}'
    lines = [f'{_place(frames[-1].filename, frames[-1].lineno, file)}: {message}']
    for frame in frames[-SHOWN:]:
        lines.append(f'  {_place(frame.filename, frame.lineno, file)}, in {frame.name}')
        lines += _shown(linecache.getline(frame.filename, frame.lineno or 0))
    return '\n'.join(lines)


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The calls in own code that led to an error, the deepest last."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if own_modules.is_own(frame.filename)]


def _shown(line: str) -> Iterator[str]:
    if line.strip():
        yield f'    {line.strip()}'


def _place(filename: str, line: int | None, file: pathlib.Path) -> str:
    """'bad.py, line 2', with the experiment file as it was named, and others from the working directory on."""
    path = pathlib.Path(filename).resolve()
    if path == file.resolve():
        path = file
    elif path.is_relative_to(pathlib.Path.cwd()):
        path = path.relative_to(pathlib.Path.cwd())
    return f'{path}, line {line}' if line else str(path)
