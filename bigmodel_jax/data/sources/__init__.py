"""Where data comes from: configs that open records, each in its file. See data/records.py for the interface."""

from bigmodel_jax.data.sources.combined import Joined, TextField, Transformed
from bigmodel_jax.data.sources.csv_file import Csv, PackageCsv
from bigmodel_jax.data.sources.image_folder import ImageFolder
from bigmodel_jax.data.sources.json_lines import JsonLines
from bigmodel_jax.data.sources.npz import Npz
from bigmodel_jax.data.sources.parquet import Parquet
from bigmodel_jax.data.sources.scikit_learn import ScikitLearn
from bigmodel_jax.data.sources.squad_file import SquadFile
from bigmodel_jax.data.sources.text_files import Lines, TextFile, TextFiles, Texts
from bigmodel_jax.data.sources.tfds import Tfds
from bigmodel_jax.data.sources.tsv_file import Tsv

__all__ = [
    'Csv',
    'ImageFolder',
    'Joined',
    'JsonLines',
    'Lines',
    'Npz',
    'PackageCsv',
    'Parquet',
    'ScikitLearn',
    'SquadFile',
    'TextField',
    'TextFile',
    'TextFiles',
    'Texts',
    'Tfds',
    'Transformed',
    'Tsv',
]
