"""Random numbers that are the same bits on every machine and with every NumPy.

NumPy promises that the raw output of a bit generator never changes; it does not promise that of
`Generator.permutation` or `Generator.normal`. Splits and generated images are part of a result's
identity, so they are made from the raw output alone.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from nenni_core.randomness import derive_seed


def raw_bits(seed: int, *names: str, count: int) -> UInt64[np.ndarray, " count"]:
    """`count` uniform 64-bit numbers of the stream called `names` under `seed`."""
    return np.random.PCG64(derive_seed(seed, *names)).random_raw(count)


def permutation(seed: int, *names: str, count: int) -> Int64[np.ndarray, " count"]:
    """0 .. count - 1 in a random order."""
    return np.argsort(raw_bits(seed, *names, count=count), kind="stable")


def uniform(seed: int, *names: str, count: int) -> Float64[np.ndarray, " count"]:
    """`count` numbers, uniform on [0, 1), multiples of 2^-53."""
    return (raw_bits(seed, *names, count=count) >> np.uint64(11)) * 2.0**-53
