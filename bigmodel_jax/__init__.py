"""bigmodel_jax: a JAX/Flax research framework for training large models on TPU pods.

Axis letters. An array's name ends in its axes, one letter each; the whole repository uses these and no others:

  B  batch (rows)                 T  query or output position     S  key or source position
  D  model width                  H  query heads                  G  key/value heads
  K  width of one head            F  feed-forward width           V  vocabulary or classes
  E  experts                      C  experts chosen by a token    L  layers
  N  flattened tokens or chunks   P  flattened patch of an image  R  query heads that share one key/value head
  W  beams (hypotheses)           M  microbatches                 I  items or features of a table
  Y  image rows                   X  image columns                Z  image channels
  A  samples of sound             Q  candidates or object queries
  O  objects of an image

F also counts the channels that a convolution gives and the units of a recurrent layer, N the gates of its cell, and K
its units as they enter the next step. `1` marks a kept singleton. A lower-case letter inside `shard_map` is this
device's slice of the axis.
"""

__version__ = '0.1.0'
