"""The answer of a sweep: tables, charts and one page, from the directories of its runs alone."""

from bigmodel_jax.sweeps.reporting.writing import write as write
