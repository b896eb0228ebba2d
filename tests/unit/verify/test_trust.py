"""The pinned store: exact keys, no silent changes, strict reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stannary.errors import FormatError, LimitExceeded, UsageError
from stannary.formats import note
from stannary.formats.dsse import public_bytes
from stannary.formats.note import KeyType
from stannary.verify import trust

from .world import key_of

LOG = note.format_vkey("local.market", public_bytes(key_of("m")))
OTHER = note.format_vkey("local.market", public_bytes(key_of("n")))
WITNESS = note.format_vkey("local.witness", public_bytes(key_of("w")), KeyType.WITNESS)


def test_what_is_written_is_read():
    """Serialising and parsing gives the same pins."""
    store = trust.TrustStore().with_market(trust.pin(LOG, (WITNESS,), ("local.witness",)))
    assert trust.parse(trust.serialise(store)) == store
    assert trust.parse("") == trust.TrustStore()
    assert store.markets[0].witness_words == "local.witness"
    assert trust.pin(LOG, (WITNESS,)).witness_words == "local, not independent"


def test_a_market_is_found_by_name_and_key():
    """The same name with another key is unknown."""
    store = trust.TrustStore().with_market(trust.pin(LOG))
    assert store.market("local.market", note.parse_vkey(LOG).key_hash) is not None
    assert store.market("local.market", note.parse_vkey(OTHER).key_hash) is None
    assert store.without("local.market").markets == ()


def test_a_changed_key_is_never_an_update():
    """Pinning another key for a known name is refused; the same key with new witnesses replaces."""
    store = trust.TrustStore().with_market(trust.pin(LOG))
    with pytest.raises(UsageError, match="another key"):
        store.with_market(trust.pin(OTHER))
    assert store.with_market(trust.pin(LOG, (WITNESS,))).markets[0].witnesses == (WITNESS,)


@pytest.mark.parametrize(
    "text",
    [
        "[market]\n",
        "x = 1\n",
        f'[[market]]\nname = "local.market"\nvkey = "{LOG}"\nextra = 1\n',
        f'[[market]]\nname = "local.market"\nvkey = "{WITNESS}"\n',
        f'[[market]]\nname = "other"\nvkey = "{LOG}"\n',
        f'[[market]]\nname = "local.market"\nvkey = "{LOG}"\nwitnesses = ["{LOG}"]\n',
        f'[[market]]\nname = "local.market"\nvkey = "{LOG}"\nwitnesses = "{WITNESS}"\n',
        f'[[market]]\nname = "local.market"\nvkey = "{LOG}"\nindependent = ["nobody"]\n',
        f'[[market]]\nname = "local.market"\nvkey = "{LOG}"\n' * 2,
        "[[market]]\nname = 1\nvkey = 2\n",
    ],
)
def test_other_contents_are_refused(text):
    """Unknown members, wrong kinds of keys and double pins are refused."""
    with pytest.raises(FormatError):
        trust.parse(text)


def test_a_log_cannot_be_its_own_witness():
    """The market's key under a witness's name adds nothing and is refused."""
    own = note.format_vkey("w", public_bytes(key_of("m")), KeyType.WITNESS)
    with pytest.raises(FormatError):
        trust.pin(LOG, (own,))


def test_size_is_bounded():
    """A store of more than a mebibyte is refused before it is parsed."""
    with pytest.raises(LimitExceeded):
        trust.parse(" " * (trust.MAX_TRUST_BYTES + 1))


@given(st.text(max_size=200))
def test_any_text_is_answered(text):
    """Whatever the text, the answer is a store or our error."""
    try:
        assert isinstance(trust.parse(text), trust.TrustStore)
    except FormatError as err:
        assert err.what
