"""The one way to seed: what random numbers are for, and the numbers they depend on, make a generator of their own."""

import hashlib

import torch


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a generator on the CPU that depends on a purpose and on numbers such as a seed and an epoch.

    Its seed is `SHA-256("purpose n1 n2 ...") mod 2^56`: a hash, not a sum, so that seed 0 in epoch 1 and seed 1 in
    epoch 0 are different streams, and so are two purposes with the same numbers. A device is given what was
    drawn on the CPU, so that every device has the same numbers.

    >>> batches, views = generator("batches", 0, 1), generator("views", 0, 1)
    >>> batches.initial_seed() == generator("batches", 0, 1).initial_seed()
    True
    >>> batches.initial_seed() == views.initial_seed()
    False
    """
    words = " ".join([purpose, *map(str, numbers)])
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[-7:], "big"))
