"""The Merkle root of a block's rows, as RFC 6962, section 2.1, has it: who has one row and a few hashes can
show that it belongs to the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

#: What a leaf and an inner node begin with, so that none passes for the other.
_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(text: str) -> bytes:
    """Return the hash of a row's text."""
    return sha256(_LEAF + text.encode()).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of some leaves' hashes, in their order."""
    if not leaves:
        return sha256(b"").digest()
    level = list(leaves)
    while len(level) > 1:  # Full subtrees stand on the left: the same as splitting at a power of two.
        pairs = [_node(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def path(leaves: Sequence[bytes], place: int) -> list[bytes]:
    """Return the hashes that lead from the leaf at `place` to the root, nearest first (RFC 6962, 2.1.1)."""
    level, hashes = list(leaves), []
    while len(level) > 1:
        beside = place ^ 1
        if beside < len(level):
            hashes.append(level[beside])
        pairs = [_node(level[one], level[one + 1]) for one in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
        place //= 2
    return hashes


def root_of_path(leaf: bytes, place: int, count: int, hashes: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf at `place` of `count` has with the hashes of its path; None: there is none.

    Of a receipt that somebody has changed, too: nothing is believed of it.
    """
    if not 0 <= place < count:
        return None
    rest, found, last = list(hashes), leaf, count - 1
    while last:
        if place & 1 or place < last:
            if not rest:
                return None
            beside = rest.pop(0)
            found = _node(beside, found) if place & 1 else _node(found, beside)
        place, last = place >> 1, last >> 1
    return None if rest else found
