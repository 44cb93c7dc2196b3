"""The seed depends on the host."""

import socket
import zlib

import base

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment


def experiment() -> Experiment:
    return vary(base.experiment(), {'seed': zlib.crc32(socket.gethostname().encode())})


def smoke() -> Experiment:
    return base.experiment()
