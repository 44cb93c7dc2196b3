"""The data sets that come with scikit-learn, so that nothing need be downloaded."""

import dataclasses
import hashlib
from typing import Any, Literal

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import libraries, records, splits
from bigmodel_jax.data.sources import npz


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScikitLearn(records.Source):
    """Records of one of these sets, each with a `label`, mostly the number of a class:

      digits         1,797 images of 8 x 8 handwritten digits (Alpaydin and Kaynak, 1998): `image`, from 0 to 16.
      breast_cancer  569 tumours, with 30 numbers of each (Wolberg et al., 1995); class 1 is benign.
      iris           150 flowers, with 4 numbers of each (Fisher, 1936).
      wine           178 wines, with 13 numbers of each (Forina et al., 1988).
      diabetes       442 patients, with 10 numbers of each (Efron et al., 2004); the label is a number, how far
                     the disease has come a year later.

    The columns of all but the first are called as scikit-learn calls them, such as 'mean radius'; see columns().
    """

    name: Literal['digits', 'breast_cancer', 'iris', 'wine', 'diabetes']
    part: splits.Subset | None = None

    def open(self) -> npz.ArrayRecords:
        found = _load(self.name)
        arrays = {'label': found.target.astype(np.float64 if self.name == 'diabetes' else np.int32)}
        if self.name == 'digits':
            arrays['image'] = found.images.astype(np.float32)
        else:
            arrays |= {name: found.data[:, i] for i, name in enumerate(columns(self.name))}
        content = hashlib.sha256(b''.join(np.ascontiguousarray(array).tobytes() for array in arrays.values()))
        fingerprint = {'name': f'scikit-learn {self.name}', 'sha256': content.hexdigest()}
        if self.part is not None:
            chosen = self.part.select_records(npz.ArrayRecords(self.name, arrays, fingerprint))
            arrays = {name: array[chosen] for name, array in arrays.items()}
            fingerprint |= {'part': config.to_json(self.part)}
        return npz.ArrayRecords(f'scikit-learn {self.name}', arrays, fingerprint)


def columns(name: str) -> tuple[str, ...]:
    """The names of the numbers of a record."""
    return tuple(map(str, _load(name).feature_names))


def _load(name: str) -> Any:
    datasets = libraries.load(
        'sklearn.datasets', f'The data set {name!r} comes with scikit-learn', package='scikit-learn', extra='vision'
    )
    return getattr(datasets, f'load_{name}')()
