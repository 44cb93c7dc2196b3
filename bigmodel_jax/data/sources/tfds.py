"""Splits of the data sets of TensorFlow Datasets (TFDS), ours or any other."""

import dataclasses
import os

from bigmodel_jax.data import records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds(records.Source):
    """A split of a TFDS data set, prepared on first use (see tfds_builders.py). The fields are the set's features.

    Source: https://www.tensorflow.org/datasets. TensorFlow is needed only by builders that use it themselves.
    """

    name: str  # 'lm1b', 'glue/sst2', 'wmt14_translate/de-en', 'python_docs/docs:1.311.7'.
    split: str  # 'train', 'train[:10%]', 'train+validation'.
    data_dir: str | None = None  # Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.

    def open(self) -> records.Records:
        # Not at the top: TFDS takes seconds to import, and most sources do not need it.
        from bigmodel_jax.data.sources import tfds_builders

        data_dir = os.path.expanduser(self.data_dir) if self.data_dir else None
        return tfds_builders.open_split(self.name, split=self.split, data_dir=data_dir)
