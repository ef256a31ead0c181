"""What a replay was asked for and did not have, as values."""

import msgspec


class Unrecorded(msgspec.Struct, frozen=True, array_like=True):
    """A request that a replay had no answer to.

    Attributes:
        method: Of the request.
        url: Of the request.
        why: What the closest recorded request is, and where it differs.
    """

    method: str
    url: str
    why: str


class Missed(msgspec.Struct, frozen=True, array_like=True):
    """What a replay was asked for and did not have: the first requests, and how many there were."""

    requests: list[Unrecorded] = []
    count: int = 0
