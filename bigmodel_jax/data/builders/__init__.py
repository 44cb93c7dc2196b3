"""Our own TFDS data sets; importing this package makes them known to TFDS."""

from bigmodel_jax.data.builders import python_docs  # noqa: F401
