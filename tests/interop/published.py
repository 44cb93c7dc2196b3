"""Small models as transformers 5.23.0 stores them, with what it made of some inputs; in tests/oracles/<case>.

Of each case: config.json, model.safetensors, io.npz (in/ inputs, out64/ outputs in float64, tolerance/ what rounding
makes of them, generated: 8 tokens chosen greedily), gradients.npz (of the loss, in float32, by key). All weights are
random, norms and biases too. The tolerances lie between what float32 is off and what a wrong epsilon or activation
changes.
"""

import json
import pathlib
import shutil

import numpy as np

from bigmodel_jax.interop import huggingface, matching
from bigmodel_jax.interop.files import folder, tensor_file

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles'
DECODERS = ('gpt2', 'llama2_mha', 'llama3_gqa_ropescale', 'mixtral')
CASES = (*DECODERS, 't5_v1_0', 't5_v1_1', 'marian_vaswani', 'bert_pretraining')


def recorded(case):
    """The arrays of io.npz by their prefix: {'in': {name: array}, 'out64': ...}."""
    found = {}
    with np.load(ORACLES / case / 'io.npz') as arrays:
        for name, array in arrays.items():
            prefix, _, rest = name.partition('/')
            found.setdefault(prefix, {})[rest] = array
    return found


def tensors(directory):
    """Key -> tensor of a directory, in memory."""
    opened = folder.Folder(directory)
    return {key: np.array(opened.read(key)) for key in opened.entries}


def matched(directory):
    """An opened directory, and what it was found to be."""
    opened = folder.Folder(directory)
    return opened, matching.match(opened, huggingface.FAMILIES)


def write(directory, contents, values):
    """A directory of these tensors and this config.json."""
    directory.mkdir(exist_ok=True)
    (directory / folder.CONFIG).write_text(json.dumps(values))
    (directory / folder.SINGLE).unlink(missing_ok=True)
    forms = {key: (tensor.shape, tensor.dtype) for key, tensor in contents.items()}
    with tensor_file.TensorWriter(directory / folder.SINGLE, forms) as writer:
        for key, tensor in contents.items():
            writer.write(key, tensor)
    return directory


def values(case):
    """The config.json of a case."""
    return json.loads((ORACLES / case / folder.CONFIG).read_text())


def copy(case, directory, **changes):
    """A copy of a case with some fields of config.json changed."""
    shutil.copytree(ORACLES / case, directory)
    (directory / folder.CONFIG).write_text(json.dumps(values(case) | changes))
    return directory


def same(left, right):
    """Whether two dicts of tensors are equal byte for byte."""
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype
        and left[key].shape == right[key].shape
        and left[key].tobytes() == right[key].tobytes()
        for key in left
    )
