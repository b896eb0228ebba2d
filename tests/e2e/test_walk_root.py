"""Three operators, one of them on another distribution: in a published root their nodes are of one class and agree."""

from __future__ import annotations

import pytest
from tests import roots
from tests.e2e.realm import CAN_RUN, NEEDS_ROOT, Realm

from stannary.rules.systems import root_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CAN_RUN, reason=NEEDS_ROOT),
]
JOB = """\
name: which
run: . /usr/lib/os-release; echo $ID > out.txt
outputs: [out.txt]
trust: {assurance: full, max_price: 0.50}
resources: {cpus: 1, memory: 256MiB, disk: 64MiB, wall_s: 120}
budget: 1.00
"""


def test_nodes_on_other_distributions_agree_in_the_markets_root(tmp_path):
    """`. /usr/lib/os-release; echo $ID` says what the root says on every node: verified, and nobody loses."""
    tar = tmp_path / "root.tar"
    tar.write_bytes(roots.runnable())
    name = root_name(roots.named(tar.read_bytes()))
    with Realm(tmp_path) as realm:
        market = realm.market()
        published = market.stannary("market", "root", "publish", "--dir", str(market.directory), str(tar))
        assert published.returncode == 0, published.stderr
        market.node("basalt", "n1", release="ID=basalt\n")
        market.node("granite", "n2", release="ID=granite\nNAME=Other\n")
        market.node("slate", "n3")
        ada = market.buyer("ada")
        classes = {item["engine_class"] for item in ada.json("offers")["offers"]}
        assert len(classes) == 1 and classes.pop().endswith(f".{name}")
        (ada.cwd / "which.yaml").write_text(JOB)
        done = ada.stannary("run", "which.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        (job,) = [item["id"] for item in ada.json("ls")["jobs"]]
        got = ada.stannary("get", job, "-o", str(tmp_path / "got"))
        assert got.returncode == 0, got.stderr
        (found,) = (tmp_path / "got").rglob("out.txt")
        assert found.read_bytes() == b"lode\n"
        report = ada.json("verify", str(next(ada.cwd.rglob(f"{job}.receipt.json"))), "--replay")
        assert report["verdict"] == "verified"
        (replayed,) = report["replay"]  # on a fourth machine, with this one's os-release
        assert replayed["outcome"] == "same"
        bonds = {item["operator"]: item["bond_usd_micros"] for item in nodes_of(market)}
        assert bonds == dict.fromkeys(("basalt", "granite", "slate"), 10_000_000)
        assert not any(item["convicted"] or item["revoked"] for item in nodes_of(market))


def nodes_of(market):
    """Return the market's nodes as its operator sees them."""
    return market.json("market", "node", "ls", "--dir", str(market.directory))["nodes"]
