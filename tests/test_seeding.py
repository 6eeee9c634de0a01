from hashlib import sha256
from itertools import product

import torch

from relgraph.seeding import generator


def test_each_purpose_and_each_number_has_a_stream_of_its_own() -> None:
    numbers = [*product(range(3), repeat=2), (0,), (11,), (1, 1, 0)]
    places = [(purpose, each) for purpose in ("views", "batches") for each in numbers]
    drawn = [tuple(torch.rand(4, generator=generator(purpose, *each)).tolist()) for purpose, each in places]
    assert len(set(drawn)) == len(places)
    again = [tuple(torch.rand(4, generator=generator(purpose, *each)).tolist()) for purpose, each in places]
    assert again == drawn


def test_a_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    """The views of a store that was written elsewhere are drawn anew, not stored."""
    torch.manual_seed(1)  # the global stream plays no part
    assert generator("views", 3, 7).initial_seed() == int(sha256(b"views 3 7").hexdigest(), 16) % 2**56
