"""Libraries that only some experiments need: imported where they are used, with a message where they are missing."""

import importlib
import types

from bigmodel_jax import config


def load(module: str, what: str, *, package: str | None = None, extra: str | None = None) -> types.ModuleType:
    """A module of an optional library.

    Args:
      what: the beginning of the message: 'Images are read by Pillow'.
      package: its name on PyPI; by default that of the module.
      extra: the extra of this package that brings it.

    Raises:
      InputError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        own = f". In a clone of this repository: pip install -e '.[{extra}]'; or" if extra else ''
        raise config.InputError(
            f'{what}, which is not installed{own}: pip install {package or module.partition(".")[0]}.'
        ) from error
