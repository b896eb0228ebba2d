#!/usr/bin/env bash
# Check a receipt with openssl, sha256sum, base64 and jq (beside the shell's own sed, od, cut): no tool of ours.
#
#   docs/verify-with-openssl.sh JOB.receipt.json MARKET_KEY [WITNESS_KEY ...]
#
# The keys are the pinned ones, spelled name+hash+base64 (`stannary trust ls` prints them); none is taken from the file.
# Checked: the market's signature on the receipt, the receipt's place in the log, the log's signature on the checkpoint,
# every witness's cosignature, and for each statement in evidence its place in the log and in the receipt's list.
# Left to `stannary verify`: what the statements mean (draws, verdicts, money).
#
# Formats: DSSE (secure-systems-lab/dsse), C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof, RFC 6962.
set -euo pipefail
export LC_ALL=C

fail() { echo "REFUSED: $*" >&2; exit 3; }
[ $# -ge 2 ] || { echo "usage: $0 RECEIPT MARKET_KEY [WITNESS_KEY ...]" >&2; exit 2; }
for tool in openssl sha256sum base64 jq; do
  command -v "$tool" >/dev/null || { echo "this script needs $tool" >&2; exit 1; }
done

receipt=$1; market_key=$2; shift 2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

to_hex() { od -An -v -tx1 | tr -d ' \n'; }
hex_of_base64() { printf %s "$1" | base64 -d | to_hex; }

# The bytes of the hex $1 on standard output.
bytes_of_hex() {
  local hex=$1 escaped=
  while [ -n "$hex" ]; do escaped+="\\x${hex:0:2}"; hex=${hex:2}; done
  printf %b "$escaped"
}

sha_of_hex() { local line; line=$(bytes_of_hex "$1" | sha256sum); printf %s "${line:0:64}"; }

# A verifier key is name+hash+base64(type, public key); the hash covers all three.
read_key() { # KEY TYPE: sets key_name, key_hash, key_public (hex)
  key_name=${1%%+*}; local rest=${1#*+}
  key_hash=${rest%%+*}
  local typed; typed=$(hex_of_base64 "${rest#*+}")
  [ "${typed:0:2}" = "$2" ] && [ ${#typed} -eq 66 ] || fail "not a key of type $2: $1"
  key_public=${typed:2}
  local name_hex; name_hex=$(printf '%s\n' "$key_name" | to_hex)
  [ "$(sha_of_hex "$name_hex$typed" | cut -c1-8)" = "$key_hash" ] || fail "key does not match its hash: $1"
}

# Ed25519 over the file $1: public key (hex) $2, signature (hex) $3. The prefix is the DER of an Ed25519 public key.
check_signature() {
  bytes_of_hex "302a300506032b6570032100$2" > "$work/key.der"
  bytes_of_hex "$3" > "$work/sig"
  openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" -rawin -in "$1" -sigfile "$work/sig" >/dev/null 2>&1
}

# The signed bytes of an envelope: "DSSEv1 <length> <type> <length> <payload>" into $work/pae; prints nothing.
write_pae() { # TYPE PAYLOAD_BASE64
  printf %s "$2" | base64 -d > "$work/payload"
  { printf 'DSSEv1 %d %s %d ' ${#1} "$1" "$(stat -c %s "$work/payload")"; cat "$work/payload"; } > "$work/pae"
}

# Fold an audit path from a leaf to the root (RFC 9162 section 2.1.3.2).
root_of() { # LEAF_HEX INDEX SIZE PATH_BASE64...
  local node at=$2 last=$(( $3 - 1 )); node=$(sha_of_hex "00$1"); [ "$2" -lt "$3" ] || return 1
  shift 3
  local sibling
  for item in "$@"; do
    sibling=$(hex_of_base64 "$item"); [ "$last" -gt 0 ] || return 1
    if [ $(( at & 1 )) -eq 1 ] || [ "$at" -eq "$last" ]; then
      node=$(sha_of_hex "01$sibling$node")
      while [ $(( at & 1 )) -eq 0 ] && [ "$at" -gt 0 ]; do at=$(( at >> 1 )); last=$(( last >> 1 )); done
    else
      node=$(sha_of_hex "01$node$sibling")
    fi
    at=$(( at >> 1 )); last=$(( last >> 1 ))
  done
  [ "$last" -eq 0 ] || return 1
  echo "$node"
}

# Version 1 is checked alike: what it lacks are statements, not signatures (docs/adr/0007-the-draw-is-committed.md).
jq -e '.format == "stannary.receipt/v2" or .format == "stannary.receipt/v1"' "$receipt" >/dev/null || fail "not a receipt"

# --- the checkpoint: header, index, path, empty line, note ---
jq -rj .proof "$receipt" > "$work/proof"
[ "$(sed -n 1p "$work/proof")" = "c2sp.org/tlog-proof@v1" ] || fail "not a tlog-proof"
index=$(sed -n '2s/^index //p' "$work/proof")
mapfile -t path < <(sed -n '3,/^$/p' "$work/proof" | sed '$d')
sed '1,/^$/d' "$work/proof" > "$work/note"
sed '/^$/,$d' "$work/note" > "$work/text"         # three lines: origin, size, root
sed '1,/^$/d' "$work/note" > "$work/signatures"
[ "$(wc -l < "$work/text")" -eq 3 ] || fail "not a checkpoint"
origin=$(sed -n 1p "$work/text"); size=$(sed -n 2p "$work/text"); root=$(hex_of_base64 "$(sed -n 3p "$work/text")")

signature_by() { # NAME: the signature line's bytes in hex
  local line; line=$(grep -F "— $1 " "$work/signatures" | head -n 1) || return 1
  hex_of_base64 "${line##* }"
}

read_key "$market_key" 01; market_public=$key_public
[ "$origin" = "$key_name" ] || fail "unknown log $origin"
line=$(signature_by "$key_name") || fail "the log has not signed its checkpoint"
[ "${line:0:8}" = "$key_hash" ] || fail "unknown log: $origin signs with another key"
check_signature "$work/text" "$market_public" "${line:8}" || fail "the checkpoint's signature does not hold"
echo "log      $origin, $size leaves"

for witness in "$@"; do
  read_key "$witness" 04
  line=$(signature_by "$key_name") || fail "$key_name has not cosigned"
  [ "${line:0:8}" = "$key_hash" ] || fail "$key_name cosigned with another key"
  time=$(( 16#${line:8:16} ))
  { printf 'cosignature/v1\ntime %d\n' "$time"; cat "$work/text"; } > "$work/cosigned"
  check_signature "$work/cosigned" "$key_public" "${line:24}" || fail "the cosignature of $key_name does not hold"
  echo "witness  $key_name at $(date -u -d "@$time" +%Y-%m-%dT%H:%M:%SZ)"
done

# --- the receipt statement ---
field() { jq -r ".receipt$1" "$receipt"; }
[ "$(field .payloadType)" = "application/vnd.in-toto+json" ] || fail "not an in-toto statement"
[ "$(field '.signatures | length')" = 1 ] || fail "not one signature"
[ "$(field '.signatures[0].keyid')" = "ed25519:$(sha_of_hex "$market_public")" ] || fail "signed by another key"
write_pae "$(field .payloadType)" "$(field .payload)"
check_signature "$work/pae" "$market_public" "$(hex_of_base64 "$(field '.signatures[0].sig')")" \
  || fail "the market's signature on the receipt does not hold"
cp "$work/payload" "$work/receipt.json"
leaf=$(sha256sum "$work/pae" | cut -c1-64)
[ "$(root_of "$leaf" "$index" "$size" "${path[@]}")" = "$root" ] || fail "the receipt is not in the log"
echo "receipt  $(jq -r '.predicate | .job + ", " + .status + ", verdict " + .verdict' "$work/receipt.json"), log index $index"

# --- evidence: exactly the receipt's list, each in the log ---
count=0; : > "$work/leaves"; previous=-1
while read -r at type payload hashes; do
  write_pae "$type" "$payload"
  leaf=$(sha256sum "$work/pae" | cut -c1-64)
  [ "$at" -gt "$previous" ] || fail "evidence is not in log order at $at"
  # shellcheck disable=SC2086  # the hashes of one path are words
  [ "$(root_of "$leaf" "$at" "$size" ${hashes//,/ })" = "$root" ] || fail "evidence at log index $at is not in the log"
  echo "sha256:$leaf" >> "$work/leaves"; previous=$at; count=$((count + 1))
done < <(jq -r '.evidence[] | [.index, .envelope.payloadType, .envelope.payload, (.path | join(","))] | join(" ")' "$receipt")
jq -r '.predicate.evidence[]' "$work/receipt.json" | cmp -s - "$work/leaves" || fail "evidence is not what the receipt lists"
echo "evidence $count statements, all in the log and in the receipt"
echo OK
