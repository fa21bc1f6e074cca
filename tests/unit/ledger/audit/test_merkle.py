"""The Merkle tree is RFC 6962's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luigi_spendguard.ledger.audit.merkle import leaf_hash, path, root, root_of_path

#: Leaves and roots of the reference implementation of Certificate Transparency
#: (https://github.com/google/certificate-transparency/blob/master/cpp/merkletree/merkle_tree_test.cc).
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(bytes.fromhex(leaf).decode()) for leaf in LEAVES]


@pytest.mark.parametrize("count", range(9))
def test_the_root_is_that_of_the_reference(count: int) -> None:
    assert root(HASHES[:count]).hex() == ROOTS[count]


def test_the_path_is_that_of_the_reference() -> None:
    assert [one.hex()[:8] for one in path(HASHES, 5)] == ["bc1a0643", "ca854ea1", "d37ee418"]
    assert [one.hex()[:8] for one in path(HASHES[:3], 2)] == ["fac54203"]
    assert path(HASHES[:1], 0) == []


@given(st.integers(1, 300), st.data())
def test_a_path_leads_to_the_root_from_its_leaf_and_place_alone(count: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(str(number)) for number in range(count)]
    place = data.draw(st.integers(0, count - 1))
    hashes = path(leaves, place)
    assert root_of_path(leaves[place], place, count, hashes) == root(leaves)
    other = data.draw(st.integers(0, count - 1))
    if other != place:
        assert root_of_path(leaves[other], place, count, hashes) != root(leaves)
    assert root_of_path(leaves[place], place, count, [*hashes, b""]) is None
    assert root_of_path(leaves[place], count, count, hashes) is None
    if hashes:
        assert root_of_path(leaves[place], place, count, hashes[:-1]) is None
