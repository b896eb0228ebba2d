"""The Merkle tree against RFC vectors, an independent implementation, and forged proofs."""

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, Refuted
from stannary.tlog import tree
from stannary.tlog.tree import Tree

# the eight leaves of the Certificate Transparency test vectors
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOT = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def leaves(count):
    return [index.to_bytes(32, "big") for index in range(count)]


def test_the_ct_vector_has_the_known_root():
    """The classic eight leaves have the root every CT implementation has."""
    assert Tree(CT_LEAVES).root().hex() == CT_ROOT
    assert Tree().root() == tree.EMPTY_ROOT


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 64, 255, 256, 257])
def test_roots_are_those_of_another_implementation(count):
    """pymerkle computes the same roots."""
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    for leaf in leaves(count):
        oracle.append_entry(leaf)
    assert Tree(leaves(count)).root() == oracle.get_root()


def test_every_proof_of_every_size_holds():
    """Inclusion and consistency proofs hold for all indexes and sizes up to 40."""
    held = leaves(40)
    grown = Tree(held)
    for size in range(1, 41):
        root = grown.root(size)
        for index in range(size):
            tree.verify_inclusion(held[index], index, size, grown.inclusion(index, size), root)
        for old in range(size + 1):
            tree.verify_consistency(old, grown.root(old), size, root, grown.consistency(old, size))


@given(st.integers(1, 300), st.data())
def test_forged_inclusion_is_refuted(size, data):
    """Another leaf, index, size, root, or a changed, shortened or longer path never verifies."""
    held = leaves(size)
    grown = Tree(held)
    index = data.draw(st.integers(0, size - 1))
    path, root = grown.inclusion(index, size), grown.root()
    forged = [
        (b"\xff" * 32, index, size, path, root),
        (held[index], index, size, path, b"\xff" * 32),
        (held[index], index, size, [*path, root], root),
        (held[index], size, size, path, root),
        (held[index], -1, size, path, root),
    ]
    if size > 1:
        other = data.draw(st.integers(0, size - 1).filter(lambda item: item != index))
        position = data.draw(st.integers(0, len(path) - 1))
        bent = [*path[:position], bytes(32), *path[position + 1 :]]
        forged += [
            (held[index], other, size, path, root),
            (held[index], index, size, path[:-1], root),
            (held[index], index, size, bent, root),
            (held[index], index, size, [*path[:-1], path[-1][:-1]], root),
        ]
    for attempt in forged:
        with pytest.raises(Refuted):
            tree.verify_inclusion(*attempt)


@given(st.integers(0, 200), st.integers(0, 200), st.data())
def test_forged_consistency_is_refuted(first, second, data):
    """A tree with another history never proves to be an extension."""
    old, new = sorted((first, second))
    grown = Tree(leaves(new))
    proof, old_root, new_root = grown.consistency(old, new), grown.root(old), grown.root(new)
    forked = Tree([b"\xff" * 32, *leaves(new)[1:]]) if new else None
    with pytest.raises(Refuted):
        tree.verify_consistency(old, old_root, new, new_root, [*proof, old_root])
    if old and forked is not None:
        with pytest.raises(Refuted):
            tree.verify_consistency(old, old_root, new, forked.root(new), forked.consistency(old, new))
    if proof:
        position = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(Refuted):
            bent = [*proof[:position], bytes(32), *proof[position + 1 :]]
            tree.verify_consistency(old, old_root, new, new_root, bent)
        with pytest.raises(Refuted):
            tree.verify_consistency(old, old_root, new, new_root, proof[:-1])
    with pytest.raises(Refuted):
        tree.verify_consistency(new + 1, new_root, new, new_root, [])


@given(st.integers(0, 300), st.integers(0, 300))
def test_truncating_is_as_if_never_appended(size, keep):
    """A tree cut back and grown again is the tree that was never cut."""
    keep = min(size, keep)
    grown = Tree(leaves(size))
    grown.truncate(keep)
    assert grown.root() == Tree(leaves(keep)).root()
    grown.extend(leaves(size)[keep:])
    assert grown.root() == Tree(leaves(size)).root()


def test_sizes_and_indexes_beyond_the_tree_are_refused():
    """Asking for what is not there is our error, not an IndexError."""
    grown = Tree(leaves(5))
    for ask in (
        lambda: grown.root(6),
        lambda: grown.inclusion(5, 5),
        lambda: grown.consistency(4, 3),
        lambda: grown.truncate(-1),
    ):
        with pytest.raises(FormatError):
            ask()


@given(st.integers(1, 70), st.data())
def test_a_checker_of_many_leaves_says_what_a_single_check_says(size, data):
    """Whatever order leaves come in, and whichever path or leaf is bent, both ways of checking agree."""
    listed = leaves(size)
    whole = Tree(listed)
    checker = tree.InclusionChecker(size, whole.root())
    for index in data.draw(st.permutations(range(size)))[:24]:
        path, leaf = list(whole.inclusion(index, size)), listed[index]
        for _ in range(data.draw(st.integers(0, 2))):
            assert outcome(checker.verify, leaf, index, tuple(path)) is None
            bent, other, at = list(path), leaf, index
            kind = data.draw(st.sampled_from(["bit", "short", "long", "leaf", "index", "swap", "size"]))
            position = data.draw(st.integers(0, max(len(path) - 1, 0)))
            if kind == "bit" and path:
                bent[position] = bytes([bent[position][0] ^ 1]) + bent[position][1:]
            elif kind == "size" and path:
                bent[position] = bent[position][:-1]
            elif kind == "short":
                bent = bent[:position]
            elif kind == "long":
                bent.append(bytes(32))
            elif kind == "swap" and path:
                bent[position], bent[-1] = bent[-1], bent[position]
            elif kind == "leaf":
                other = listed[data.draw(st.integers(0, size - 1))]
            else:
                at = data.draw(st.integers(-1, size + 1))
            single = outcome(tree.verify_inclusion, other, at, size, tuple(bent), whole.root())
            assert outcome(checker.verify, other, at, tuple(bent)) == single


def outcome(function, *arguments):
    """Return the error a call raises, None where it passes."""
    try:
        function(*arguments)
    except Refuted as err:
        return type(err)
    return None
