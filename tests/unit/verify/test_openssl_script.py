"""docs/verify-with-openssl.sh: the auditor's check without any tool of ours, under every shell this machine has."""

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stannary.formats import dsse, note, predicates
from stannary.formats.note import KeyType

from .world import World, key_of

SCRIPT = Path(__file__).parents[3] / "docs" / "verify-with-openssl.sh"
TOOLS = ("openssl", "base64", "jq", "od")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
SHELLS = ("dash", "bash", "bash --posix", "busybox sh", "mksh", "ksh", "zsh --emulate sh", "yash --posix", "posh")
MANY = 200_000  # bytes of one statement: more than one argument of a program may hold (MAX_ARG_STRLEN is 128 KiB)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def world():
    return World(rounds=1, lanes=1).play()


@pytest.fixture(scope="module")
def value(world):
    return json.loads(world.receipt())


def run(tmp_path, world, value, *keys, shell="sh", text=None):
    path = tmp_path / "job.receipt.json"
    path.write_text(text if text is not None else json.dumps(value, indent=1))
    command = [*shell.split(), str(SCRIPT), str(path), *(keys or (world.vkey, world.witness_vkey))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)


def refused(done):
    assert (done.returncode, done.stdout.endswith("OK\n")) == (3, False), done.stdout
    assert re.fullmatch(r"REFUSED: [ -~]+\n", done.stderr), done.stderr
    return done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_an_honest_receipt_passes(tmp_path, world, value, shell):
    """Log, witness, receipt, earlier checkpoints and every statement are checked, and OK is the last word."""
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"this machine lacks {shell.split()[0]}")
    done = run(tmp_path, world, value, shell=shell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "OK"
    assert f"evidence {len(value['evidence'])} statements" in done.stdout
    assert "not checked here" in done.stdout


def places(value, path=()):
    """Yield the path of every string and number of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from places(item, (*path, name))
    if isinstance(value, str | int):
        yield path


def at_path(value, path):
    for name in path:
        value = value[name]
    return value


def chosen(value):
    """Return a first and a last place of every kind, such as evidence/*/envelope/signatures/*/sig."""
    kinds = {}
    for path in places(value):
        kinds.setdefault(tuple("*" if isinstance(name, int) else name for name in path), []).append(path)
    return [path for found in kinds.values() for path in {found[0], found[-1]}]


def changed(value, path, change):
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], change)
    return copy


def other(item):
    """Return a string with one character changed that no reader may take for the same, a number plus one."""
    if isinstance(item, int):
        return item + 1
    at = len(item) // 2
    return item[:at] + ("B" if item[at] == "A" else "A") + item[at + 1 :]


def test_every_byte_counts(tmp_path, world, value):
    """A change at any kind of place, evidence signatures and earlier checkpoints among them, is refused."""
    for path in chosen(value):
        refused(run(tmp_path, world, changed(value, path, other)))


BENDS = itertools.cycle(
    [
        lambda lines, at: [*lines[:at], *lines[at + 1 :]],
        lambda lines, at: [*lines[: at + 1], *lines[at:]],
        lambda lines, at: [*lines[:at], other(lines[at]) if lines[at] else " ", *lines[at + 1 :]],
    ]
)


def test_every_line_of_a_note_counts(tmp_path, world, value):
    """Lines of the proof and of an earlier checkpoint, left out, doubled or changed by turns, are refused."""
    for path in (("proof",), ("checkpoints", 0, "note")):
        lines = at_path(value, path).split("\n")
        for at, bend in zip(range(len(lines)), BENDS, strict=False):
            bent = "\n".join(bend(lines, at))
            refused(run(tmp_path, world, changed(value, path, lambda _, bent=bent: bent)))


@pytest.mark.parametrize(
    "bend",
    [
        lambda value: {**value, "evidence": value["evidence"][:-1]},
        lambda value: {**value, "evidence": [*value["evidence"], value["evidence"][-1]]},
        lambda value: {**value, "evidence": value["evidence"][::-1]},
        lambda value: {**value, "checkpoints": []},
        lambda value: {**value, "checkpoints": value["checkpoints"][1:]},
        lambda value: {**value, "checkpoints": [*value["checkpoints"], value["checkpoints"][-1]]},
        lambda value: {**value, "extra": 1},
        lambda value: {name: item for name, item in value.items() if name != "checkpoints"},
        lambda value: [value],
        lambda value: {},
        lambda value: None,
        lambda value: {**value, "evidence": {}},
        lambda value: {**value, "proof": ["\n"]},
        lambda value: changed(value, ("evidence", 0, "envelope", "payload"), lambda text: text + "\n"),
        lambda value: changed(value, ("evidence", 0, "index"), lambda at: at + 0.5),
        lambda value: changed(value, ("evidence", 0, "index"), lambda at: -1),
        lambda value: changed(value, ("evidence", 0, "envelope", "signatures"), lambda two: two * 2),
    ],
)
def test_what_is_missing_or_too_much_is_refused(tmp_path, world, value, bend):
    """Statements and checkpoints left out, doubled or turned round, members unknown, missing or of another type."""
    refused(run(tmp_path, world, bend(value)))


def test_doubled_members_are_refused(tmp_path, world, value):
    """A document that two readers could read in two ways is no receipt, and two documents are none."""
    honest = json.dumps(value)
    refused(run(tmp_path, world, value, text='{"evidence": [],' + honest[1:]))
    refused(run(tmp_path, world, value, text=honest[:-1] + ', "checkpoints": [{}]}'))
    refused(run(tmp_path, world, value, text=honest + honest))
    refused(run(tmp_path, world, value, text=""))
    refused(run(tmp_path, world, value, text="[" * 5000))


HOSTILE = (
    "index[$(touch pwned)0]",
    "$(touch pwned)",
    "`touch pwned`",
    "0;touch pwned",
    "0x10",
    "1e3",
    "010",
    "-1",
    "",
    " 5",
    "99999999999999999999",
    "9007199254740993",
    "%n%s",
    "--version",
    "a[$(touch pwned)]",
)


def signed_checkpoint(world, size):
    """Return a final checkpoint that says anything for a size, signed and cosigned by the pinned keys."""
    root = dsse.encode_base64(world.tree.root())
    text = f"{world.name}\n{size}\n{root}\n"
    key_hash = note.parse_vkey(world.vkey).key_hash
    signature = note.NoteSignature(world.name, key_hash, world.market_key.sign(text.encode()))
    signed = note.Note(text, (signature,)).to_text()
    return note.add_cosignatures(signed, [note.cosign(signed, "local.witness", world.witness_key, world.now)])


@pytest.mark.parametrize("size", HOSTILE)
def test_a_signed_size_is_matched_before_use(tmp_path, world, value, size):
    """Whatever a market signs for a size, nothing is executed: what is no number ends there."""
    head = value["proof"].partition("\n\n")[0]
    refused(run(tmp_path, world, {**value, "proof": f"{head}\n\n{signed_checkpoint(world, size)}"}, shell="bash"))
    assert not (tmp_path / "pwned").exists()


def test_no_other_member_is_executed(tmp_path, world, value):
    """Indexes, payloads, key ids, hashes, signatures and names that are programs are refused as text."""
    texts = itertools.cycle(text for text in HOSTILE if text)
    for path, text in zip([path for path in chosen(value) for _ in range(2)], texts, strict=False):
        refused(run(tmp_path, world, changed(value, path, lambda _, text=text: text), shell="bash"))
    lines = value["proof"].split("\n")
    for at, text in zip(range(len(lines)), texts, strict=False):
        for line in (text, f"index {text}" if at == 1 else f"\u2014 {text} {text}"):
            bent = "\n".join([*lines[:at], line, *lines[at + 1 :]])
            refused(run(tmp_path, world, {**value, "proof": bent}, shell="bash"))
    assert not (tmp_path / "pwned").exists()


def test_a_signature_by_another_key_is_refused(tmp_path, world, value):
    """A leaf does not cover its signature: one by another key is refused, under its own id and under the honest one."""
    for index in (0, len(value["evidence"]) - 1):
        payload = dsse.decode_base64(value["evidence"][index]["envelope"]["payload"], "payload")
        forged = dsse.sign(payload, key_of("stranger")).to_json()
        path = ("evidence", index, "envelope", "signatures", 0)
        refused(run(tmp_path, world, changed(value, path, lambda _, forged=forged: forged["signatures"][0])))
        sig = forged["signatures"][0]["sig"]
        refused(run(tmp_path, world, changed(value, (*path, "sig"), lambda _, sig=sig: sig)))


def test_a_node_of_another_key_is_refused(tmp_path):
    """A credential whose key is not the one its node is named after vouches for nothing."""
    world = World(rounds=1, lanes=1)
    world.nodes["n1"].key = world.nodes["n2"].key
    assert "named after" in refused(run(tmp_path, world, json.loads(world.play().receipt())))


def test_a_checkpoint_from_the_future_is_refused(tmp_path):
    """A cosignature later than now is no proof; the words name the reader's clock."""
    world = World(rounds=1, lanes=1)
    world.now = 4_000_000_000
    assert "clock" in refused(run(tmp_path, world, json.loads(world.play().receipt())))


def test_another_key_is_an_unknown_log(tmp_path, world, value):
    """With another pinned key the receipt is not believed, whatever it says of itself."""
    other_market = World(rounds=1, lanes=1)
    other_market.market_key = other_market.buyer_key
    assert "unknown log" in refused(run(tmp_path, world, value, other_market.vkey, world.witness_vkey))


def test_keys_are_checked_too(tmp_path, world, value):
    """A key that is none, of another kind, or does not match its hash is refused; so is a witness left out."""
    flipped = world.vkey.replace("+", "+0", 1)
    for keys in ((flipped,), (world.witness_vkey,), ("x",), (world.vkey, world.vkey), ("$(touch pwned)+0+0",)):
        refused(run(tmp_path, world, value, *keys))
    public = dsse.public_bytes(world.buyer_key)
    stranger = note.format_vkey("local.witness", public, KeyType.WITNESS)
    refused(run(tmp_path, world, value, world.vkey, stranger))
    assert "local.witness" in refused(run(tmp_path, world, value, world.vkey))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("shell", ["dash", "mksh"])
def test_a_statement_longer_than_an_argument(tmp_path, shell):
    """A statement of 200 kB is checked like any other: nothing of a receipt travels as an argument of a program."""
    if shutil.which(shell) is None:
        pytest.skip(f"this machine lacks {shell}")
    world = World(rounds=1, lanes=1)
    rejected = tuple(predicates.Rejection(f"n-{number:012x}", "x" * 60) for number in range(MANY // 80))
    world.bend["placement"] = lambda said: replace(said, rejected=rejected)
    done = run(tmp_path, world, json.loads(world.play().receipt()), shell=shell)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["OK"]), done.stderr
