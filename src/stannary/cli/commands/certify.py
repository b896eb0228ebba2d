"""`stannary certify`: what a machine really is, checked on your own machine, offline."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stannary import files
from stannary.cli.command import command
from stannary.cli.commands.certify_collateral import collateral
from stannary.cli.commands.certify_files import (
    MAKE_CHALLENGE,
    MAKE_EVIDENCE,
    MAKE_ROOT,
    advised,
    envelopes,
    moment,
    print_signed,
    read_as,
    signing_key,
)
from stannary.cli.commands.certify_revocations import revocations
from stannary.cli.lazy import LazyGroup
from stannary.cli.output import Output, plain
from stannary.errors import Refuted, UsageError

if TYPE_CHECKING:
    from stannary.certify.appraise import Context, Result
    from stannary.certify.challenge import Challenge
    from stannary.certify.collateral.items import Item
    from stannary.certify.envelope import Evidence
    from stannary.certify.policy import Policy
    from stannary.certify.withdrawals import Withdrawal

PRIVATE_SUFFIX = ".private"
MAX_LISTED = 12
EXIT_REFUSED, EXIT_BELOW_POLICY, EXIT_MISMATCH = 3, 4, 1
# Dense int8 TOP/s by data sheet, for the line beside the measured figure.
DATA_SHEET_TOPS = {"H100": 1979, "H200": 1979, "B200": 4500, "A100": 624, "L40S": 733, "L4": 242, "T4": 130}

now_option = click.option("--now", metavar="TIME", help="Evaluation time, e.g. 2026-11-22T00:00:00Z.")
policy_option = click.option("--policy", "policy_name", default="standard", show_default=True, metavar="NAME|FILE")
packaged_option = click.option(
    "--no-packaged-revocations", "without_packaged", is_flag=True, help="Leave out the notice of this release."
)
path_type = click.Path(path_type=Path)


@click.group(cls=LazyGroup)
def certify() -> None:
    """Check a machine's evidence and grade, offline. A tier is computed from facts, never declared."""


@command
@click.option("-o", "--output", type=path_type, required=True, help="Where to write the challenge for the machine.")
@click.option("--for", "earlier", type=path_type, help="Evidence to renew: activates its keys, asks for the same boot.")
@click.option(
    "--ttl-s", type=click.IntRange(1, 3600), default=60, show_default=True, help="Seconds it may be answered."
)
@advised
def challenge(out: Output, output: Path, earlier: Path | None, ttl_s: int) -> None:
    """Make a challenge for `stannary node check`. It can be answered once."""
    from stannary.certify import challenge as challenges
    from stannary.formats import canonical, record

    now = datetime.now(UTC)
    if earlier is None:
        made, memory = challenges.issue(now, ttl_s=ttl_s)
    else:
        made, memory = _renewal(earlier, now, ttl_s)
    files.replace(output, made.to_bytes())
    private = output.with_name(output.name + PRIVATE_SUFFIX)
    if memory.secret:
        files.replace(private, canonical.encode(record.to_json(memory)))
        out.say(f"keep {private} here: it holds what the machine must find out")
    out.result(
        {"challenge": made.id, "expires_at": made.expires_at, "file": str(output)},
        f"{output}\nanswer it on the machine by {made.expires_at}: "
        f"stannary node check --challenge {output.name} -o evidence.json",
    )


def _renewal(earlier: Path, now: datetime, ttl_s: int) -> tuple[Any, Any]:
    from stannary.certify import challenge as challenges
    from stannary.certify import envelope
    from stannary.certify.evidence.basis import BootSession
    from stannary.certify.evidence.tpm import TpmVerifier

    part = read_as(earlier, envelope.parse, MAKE_EVIDENCE).parts.get("tpm")
    if part is None:
        raise UsageError(
            "nothing to renew", why="the evidence holds no TPM part", hint="certify challenge without --for"
        )
    parsed = TpmVerifier().parse(part.evidence)
    if parsed.ak is None or not parsed.ek_chain:
        raise UsageError(
            "nothing to activate",
            why="the TPM part carries no attestation key or no EK certificate",
            hint="collect on a machine whose TPM has an EK certificate, or challenge without --for",
        )
    session = BootSession(parsed.attest.reset_count, parsed.attest.restart_count)
    return challenges.renew(now, parsed.ek_chain[0], parsed.ak.name, session, ttl_s=ttl_s)


@command
@click.argument("evidence_file", metavar="EVIDENCE", type=path_type)
@click.option("--challenge", "challenge_file", type=path_type, required=True, help="The challenge it answers.")
@policy_option
@click.option("--claims", default="", metavar="TEXT", help='What the seller claims, e.g. "8xH200".')
@click.option("--reference", "reference_files", multiple=True, type=path_type, help="Signed reference boot.")
@click.option("--voucher", "voucher_files", multiple=True, type=path_type, help="Signed voucher of an inspector.")
@click.option("--collateral", "collateral_place", type=path_type, help="Fetched collateral (certify collateral fetch).")
@click.option("--revocations", "notice_files", multiple=True, type=path_type, help="Signed revocation notice.")
@packaged_option
@click.option("--tpm-root", "tpm_roots", multiple=True, type=path_type, help="Root of a TPM maker you trust.")
@click.option("--test-root", "test_roots", multiple=True, type=path_type, help="Root of a software TPM (tier T0).")
@click.option("--keep", type=path_type, help="Folder that keeps raw evidence for `certify reappraise`.")
@click.option("--credential", "credential_file", type=path_type, help="Where to write the signed result (EAR).")
@click.option("--key", "key_file", type=path_type, help="Ed25519 key that signs the credential (made if absent).")
@click.option(
    "--name", "machine_name", default="", metavar="TEXT", help="What to call the machine (default: the file)."
)
@click.option("--html", "page_file", type=path_type, help="Where to write the result as a page to look at.")
@now_option
@advised
def appraise(out: Output, evidence_file: Path, challenge_file: Path, **options: Any) -> int:
    """Appraise a machine's EVIDENCE: tier, limit, power, and what could not be shown."""
    from stannary.certify import challenge as challenges
    from stannary.certify import credential, envelope
    from stannary.certify.appraise import appraise as decide
    from stannary.certify.claims import read_claims
    from stannary.certify.folder import Folder
    from stannary.certify.moments import format_moment

    read_claims(options["claims"])
    evidence = read_as(evidence_file, envelope.parse, MAKE_EVIDENCE)
    asked = read_as(challenge_file, challenges.parse, MAKE_CHALLENGE)
    context = _context(asked, challenge_file, options)
    if options["now"] is None:  # last, so that a file that does not read costs no challenge
        context = replace(context, spent=Folder(files.data_dir() / "certify").spend(asked.id))
    result = decide(evidence, asked, context)
    if options["keep"] is not None:
        Folder(options["keep"]).keep(evidence, asked, result, context, format_moment(context.now))
    if options["credential_file"] is not None:
        key = signing_key(options["key_file"])
        token = credential.issue(result, evidence, asked, context.policy, key, now=context.now)
        files.replace(options["credential_file"], token.encode("ascii") + b"\n")
    value = _value(options["machine_name"] or evidence_file.stem, evidence, context, result)
    if options["page_file"] is not None:
        from stannary.cli import appraisal_page

        files.replace(options["page_file"], appraisal_page.render(value).encode("utf-8"))
        out.say(f"{options['page_file']}: the same to look at, in a browser")
    out.result(value, "\n".join(_lines(value, context, result)))
    if result.decision.refused:
        return EXIT_REFUSED
    return 0 if result.accepted else EXIT_BELOW_POLICY


def _context(asked: Challenge, challenge_file: Path, options: dict[str, Any]) -> Context:
    from stannary.certify import challenge as challenges
    from stannary.certify.appraise import Context
    from stannary.certify.policy import load

    private = challenge_file.with_name(challenge_file.name + PRIVATE_SUFFIX)
    memory = read_as(private, challenges.parse_memory, MAKE_CHALLENGE) if private.is_file() else None
    if memory is not None and memory.challenge != asked.id:
        raise UsageError("the private part is of another challenge", why=str(private), hint="make a new challenge")
    return Context(
        now=moment(options["now"]),
        policy=_narrowed(load(options["policy_name"]), options),
        memory=memory,
        references=envelopes(options["reference_files"]),
        vouchers=envelopes(options["voucher_files"]),
        notices=envelopes(options["notice_files"]),
        items=_items(options["collateral_place"]),
        claims=options["claims"],
    )


def _items(place: Path | None) -> dict[tuple[str, str], Item]:
    from stannary.certify.collateral.store import CollateralStore

    return {} if place is None else CollateralStore(place).load()


def _narrowed(policy: Policy, options: dict[str, Any]) -> Policy:
    """Roots and lists named on the command line are part of the policy, and of its id."""
    from stannary.certify.pki import certificates

    def pins(paths: tuple[Path, ...]) -> tuple[str, ...]:
        return tuple(item.key_pin for path in paths for item in read_as(path, certificates.load_bundle, MAKE_ROOT))

    roots = replace(
        policy.tpm,
        roots=(*policy.tpm.roots, *pins(options["tpm_roots"])),
        test_roots=(*policy.tpm.test_roots, *pins(options["test_roots"])),
    )
    packaged = policy.packaged_revocations and not options["without_packaged"]
    return replace(policy, tpm=roots, packaged_revocations=packaged)


def _lines(value: dict[str, Any], context: Context, result: Result) -> list[str]:
    """Say a result in words; `value` is the same for machines."""
    limit = result.decision.limiting
    return [
        f"tier       {value['tier']} {value['tier_name']}: {value['residual']}",
        f"limit      {limit.layer}: {plain(limit.reason)}",
        f"to rise    {limit.remedy or 'nothing'}",
        f"policy     {context.policy.name} asks for {context.policy.minimum_tier}: {value['verdict']}",
        f"machine    {plain(value['name'])}, challenge {plain(value['challenge'])}, at {value['evaluated_at']}",
        *_power_lines(result, context.claims),
        *_layer_lines(result),
    ]


def _value(name: str, evidence: Evidence, context: Context, result: Result) -> dict[str, Any]:
    from stannary.certify.moments import format_moment
    from stannary.certify.tiers import NAMES, RESIDUAL, verdict
    from stannary.formats.predicates import Tier

    tier, limit = Tier.T0 if result.decision.refused else result.decision.tier, result.decision.limiting
    return {
        "name": name,
        "challenge": evidence.challenge,
        "collected_at": evidence.collected_at,
        "host": evidence.host,
        "verdict": verdict(accepted=result.accepted, refused=result.decision.refused),
        "tier": tier.name,
        "tier_name": NAMES[tier],
        "residual": RESIDUAL[tier],
        "accepted": result.accepted,
        "refused": result.decision.refused,
        "limit": {"layer": limit.layer, "reason": limit.reason, "remedy": limit.remedy},
        "policy": context.policy.id,
        "policy_name": context.policy.name,
        "minimum_tier": context.policy.minimum_tier,
        "claims": context.claims,
        "claimed_int8_tops": _claimed_tops(context.claims),
        "evaluated_at": format_moment(context.now),
        "evidence": evidence.digest(),
        "grade": {} if result.grade is None else result.grade.to_json(result.elapsed_s),
        "submods": {name: item.to_json() for name, item in result.parts.items()},
    }


def _claimed_tops(claims: str) -> int | None:
    """Return what the claimed accelerators do by their data sheet, None where we know no sheet."""
    from stannary.certify.claims import read_claims

    sheets = [(item.count, DATA_SHEET_TOPS.get(item.name)) for item in read_claims(claims) if not item.is_switch]
    return sum(count * tops for count, tops in sheets if tops) if sheets and all(tops for _, tops in sheets) else None


def _power_lines(result: Result, claims: str) -> list[str]:
    sheet = _claimed_tops(claims)
    beside = f"   claimed {claims}" if claims else ""
    if sheet is not None:
        beside += f" = {sheet:,} TOP/s by data sheet"
    if result.grade is None:
        return [f"power      not measured{plain(beside)}"]
    vector = result.grade.vector(result.elapsed_s)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in vector.items())
    scu = result.grade.to_json(result.elapsed_s)["scu"]
    words = ", ".join(f"{name} {value}" for name, value in scu.items()) if isinstance(scu, dict) else ""
    return [
        f"power      {figures}, network not measured{plain(beside)}",
        f"scu        {words}",
    ]


def _layer_lines(result: Result) -> list[str]:
    from stannary.certify.outcomes import Severity, State

    lines = []
    for name, item in result.parts.items():
        lines.append(f"{name:<10} {item.outcome}")
        for found in [row for row in item.findings if row.severity is Severity.REFUSE][:MAX_LISTED]:
            lines.append(f"           refused  {found.id}: {plain(found.observed)[:160]}")
            lines.append(f"           change   {found.remedy}")
        for row in [row for row in item.checks if row.state is State.WAIVED][:MAX_LISTED]:
            lines.append(f"           not shown  {row.id}: {plain(row.detail)[:160]}")
    return lines


@command
@click.argument("folder", metavar="DIR", type=path_type)
@packaged_option
@now_option
@advised
def vectors(out: Output, folder: Path, now: str | None, without_packaged: bool) -> int:
    """Run a manifest of evidence with expected outcomes; exit 1 on any mismatch."""
    from stannary.certify.vectors.cases import load
    from stannary.certify.vectors.runner import run

    results = list(run(load(folder), None if now is None else moment(now), () if without_packaged else None))
    matching = sum(item.matches for item in results)
    lines = []
    for item in results:
        mark = "ok  " if item.matches else "FAIL"
        tail = f"  {plain(item.detail)}" if item.detail else ""
        wrong = "" if item.matches else f"  expected {plain(item.expected)}"
        lines.append(f"{mark} {plain(item.id):<58} {plain(item.observed)}{wrong}{tail}")
    lines.append(f"{matching} of {len(results)} as expected")
    rows = [
        {"id": item.id, "expected": item.expected, "observed": item.observed, "matches": item.matches,
         "detail": item.detail}
        for item in results
    ]  # fmt: skip
    out.result({"cases": rows, "matching": matching, "total": len(results)}, "\n".join(lines))
    return 0 if matching == len(results) else EXIT_MISMATCH


@command
@click.argument("folder", metavar="DIR", type=path_type)
@click.option("--deny", "denied", multiple=True, help="Generation, hardware identity or fact, now denied.")
@click.option("--revocations", "notice_files", multiple=True, type=path_type, help="Signed revocation notice.")
@policy_option
@click.option("--full", is_flag=True, help="Appraise the exposed evidence again in full.")
@advised
def reappraise(out: Output, folder: Path, notice_files: tuple[Path, ...], **options: Any) -> int:
    """List the kept appraisals that a new denial or revocation notice exposes."""
    from stannary.certify import reappraise as again
    from stannary.certify.folder import Folder
    from stannary.certify.policy import load

    policy, denied, full = load(options["policy_name"]), frozenset(options["denied"]), options["full"]
    if not denied and not notice_files:
        raise UsageError(
            "nothing is denied",
            why="neither --deny nor --revocations",
            hint=f"stannary certify reappraise {folder} --deny milan",
        )
    withdrawals = _believed(notice_files, policy)
    store, names = Folder(folder), denied | {item.identity for item in withdrawals}
    entries = list(store.entries())
    found = list(again.exposed(entries, names))
    rows, value = [], []
    for item in found:
        tier = item.entry.tier
        if full:
            result = again.again(store, item.entry, policy, denied, withdrawals)
            tier = f"{tier} -> {'refused' if result.decision.refused else result.decision.tier.name}"
        row = (item.entry.appraised_at, item.entry.node_key[:16], tier, ", ".join(item.matched)[:80])
        rows.append(row)
        value.append({"evidence": item.entry.evidence, "appraised_at": row[0], "node_key": item.entry.node_key,
                      "tier": tier, "matched": list(item.matched)})  # fmt: skip
    out.table(("APPRAISED", "KEY", "TIER", "RESTS ON"), rows, {"exposed": value, "appraisals": len(entries)})
    named = ", ".join(sorted(names)) if len(names) <= MAX_LISTED else f"{len(names):,} denied things"
    out.say(f"{len(found):,} of {len(entries):,} appraisals rest on {named or 'nothing: the notices are empty'}")
    return EXIT_REFUSED if found else 0


def _believed(paths: tuple[Path, ...], policy: Policy) -> tuple[Withdrawal, ...]:
    """Read notices; one that the policy does not believe ends the command: the list would be of a stranger."""
    from stannary.certify.revocation_notice import believe

    found = believe(envelopes(paths), replace(policy, packaged_revocations=False))
    refusal = found.appraisal.refusal
    if refusal is not None:
        raise Refuted(
            "revocation notice is not believed",
            why=refusal.observed,
            hint="name the watcher's key in revocation_keys of a policy, and give it with --policy",
        )
    return found.withdrawals


@command
@click.argument("evidence_file", metavar="EVIDENCE", type=path_type)
@click.option("--name", required=True, help="Name of the published image.")
@click.option("--pcr", "pcrs", multiple=True, type=click.IntRange(0, 23), help="Registers  [default: 0-7 and 9]")
@click.option("-o", "--output", type=path_type, required=True, help="Where to write the signed reference.")
@click.option("--key", "key_file", type=path_type, help="Ed25519 key that signs (made if absent).")
@advised
def reference(out: Output, evidence_file: Path, **options: Any) -> None:
    """Sign the registers of a boot you trust as the reference values of its image."""
    from stannary.certify import envelope, references
    from stannary.certify.evidence.tpm import TpmVerifier

    part = read_as(evidence_file, envelope.parse, MAKE_EVIDENCE).parts.get("tpm")
    parsed = None if part is None else TpmVerifier().parse(part.evidence)
    if parsed is None or parsed.log is None:
        raise UsageError(
            "no boot to refer to",
            why="the evidence holds no TPM part with an event log",
            hint="run `stannary node check` as root on the machine whose boot you trust",
        )
    wanted = options["pcrs"] or (*range(8), 9)
    registers = {index: parsed.pcrs[index] for index in wanted if index in parsed.pcrs}
    key = signing_key(options["key_file"])
    made = references.reference_of(options["name"], parsed.log, registers)
    files.replace(options["output"], references.sign_reference(made, key).to_bytes())
    print_signed(out, options["output"], key, "reference_keys")


@command
@click.argument("identity")
@click.option("--inspector", required=True, help="Your name, as policies list it.")
@click.option("--facility", required=True, help="Where you saw it.")
@click.option("-o", "--output", type=path_type, required=True, help="Where to write the signed voucher.")
@click.option("--key", "key_file", type=path_type, help="Ed25519 key that signs (made if absent).")
@now_option
@advised
def vouch(out: Output, identity: str, **options: Any) -> None:
    """Vouch for where a hardware IDENTITY (snp:..., ppid:..., ek:...) stands."""
    from stannary.certify import references
    from stannary.certify.moments import format_moment

    key = signing_key(options["key_file"])
    seen = references.Voucher(
        identity, options["inspector"], options["facility"], format_moment(moment(options["now"]))
    )
    files.replace(options["output"], references.sign_voucher(seen, key).to_bytes())
    print_signed(out, options["output"], key, "vouch.inspectors")


for _item in (challenge, appraise, vectors, reappraise, reference, vouch, collateral, revocations):
    certify.add_command(_item)
