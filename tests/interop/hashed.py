"""Weights that follow from their names, so that recordings need not hold them: integers made of a hash, in float32."""

import zlib

import numpy as np


def uniform(key, shape):
    """Numbers in [-1, 1), float32 and exact: the same on every machine and of every version."""
    count = int(np.prod(shape))
    mixed = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(key.encode())) * np.uint64(2**31)
    with np.errstate(over='ignore'):  # SplitMix64, Steele et al. (2014), figure 16.
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    whole = (mixed >> np.uint64(41)).astype(np.float32)  # 23 bits
    return (whole / np.float32(2**22) - np.float32(1)).reshape(shape)


def weight(key, shape):
    """A tensor of a model: all of them matter, norms and biases too."""
    drawn = uniform(key, shape)
    if len(shape) == 1:
        return drawn / np.float32(4) + np.float32('norm' in key.lower() and key.endswith('weight'))
    return drawn * np.float32(1.5 / np.sqrt(shape[-1]))


def weights(shapes):
    """Key -> tensor."""
    return {key: weight(key, shape) for key, shape in shapes.items()}


def probe(key, array):
    """Two numbers that a wrong element of a large array changes."""
    return np.array([(array * uniform(f'probe of {key}', array.shape)).sum(), np.abs(array).sum()], np.float64)
