#!/bin/sh
# Check a receipt with openssl, jq and base64 (beside od, cmp, tr, wc, head, sed, mktemp): no tool of ours, any POSIX shell.
#
#   docs/verify-with-openssl.sh JOB.receipt.json MARKET_KEY [WITNESS_KEY ...]
#
# The keys are the pinned ones, spelled name+hash+base64 (`stannary trust ls` prints them); none is taken from the file.
#
# Checked: the log's signature and every named witness's cosignature on the final checkpoint and on each earlier one, no
# signature line left over; each earlier checkpoint consistent with the final one, and exactly those the reveals name; the
# market's signature on the receipt; for each statement its place in the log, its place in the receipt's list, and its
# signature by the key its kind demands: the market's, the buyer's (in the job statement), the node's (in its credential).
# Left to `stannary verify`: what the statements mean (draws, audits, silences, verdicts, money, the result, the times
# nodes state) and that their JSON is in canonical form.
#
# Nothing of the file reaches the shell but what the jq program below has matched: whole numbers, base64, octal escapes.
# No value of the file is used in shell arithmetic, and directions in the tree are worked out by jq.
#
# Formats: DSSE (secure-systems-lab/dsse), C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof, RFC 9162.
set -euf
export LC_ALL=C
umask 077

MAX_RECEIPT_BYTES=67108864 # src/stannary/formats/receipt.py

fail() { printf 'REFUSED: %s\n' "$*" >&2; exit 3; }
[ $# -ge 2 ] || { printf 'usage: %s RECEIPT MARKET_KEY [WITNESS_KEY ...]\n' "$0" >&2; exit 2; }
for tool in openssl jq base64 od cmp tr wc head sed mktemp; do
  command -v "$tool" >/dev/null || { printf 'this script needs %s\n' "$tool" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
file=$work/file
# One copy, read once: what is checked first is what is used later.
head -c $((MAX_RECEIPT_BYTES + 1)) < "$1" > "$file" || { printf 'cannot read %s\n' "$1" >&2; exit 2; }
[ "$(wc -c < "$file")" -le "$MAX_RECEIPT_BYTES" ] || fail "larger than any receipt"
shift

# Duplicate members: readers differ on which one counts. A document with one has more events than its parsed value.
unique_members() { # FILE of JSON objects
  jq -n --stream 'foreach inputs as $event ({events: 0};
      if .ended then {events: 0} else . end | .events += 1 | .ended = ($event | length == 1 and (.[0] | length == 1));
      select(.ended) | .events)' < "$1" > "$work/read" 2>/dev/null || return 1
  jq 'reduce tostream as $event (0; . + 1)' < "$1" > "$work/parsed" 2>/dev/null || return 1
  cmp -s "$work/read" "$work/parsed"
}

# The plan: one line of matched words for each thing to compute. Everything that needs no hash is decided here.
cat > "$work/plan.jq" <<'END'
def refuse($why): error("REFUSED " + $why);
def need(ok; $why): if ok then . else refuse($why) end;
# \A and \z, never ^ and $, which let a line feed through.
def matches($pattern; $why): need(type == "string" and test("\\A(?:" + $pattern + ")\\z"); $why);
def members($names; $what): need(type == "object" and keys == ($names | sort); $what + " has missing or unknown members");
def list($what): need(type == "array"; $what + " is not a list");
def whole($what): need(type == "number" and . >= 0 and . <= 9007199254740991 and . == floor; $what + " is not a whole number");

def digit($what):
  if 65 <= . and . <= 90 then . - 65 elif 97 <= . and . <= 122 then . - 71
  elif 48 <= . and . <= 57 then . + 4 elif . == 43 then 62 elif . == 47 then 63
  else refuse($what + " is not base64") end;
def base64_bytes($what): # canonical base64 only (RFC 4648 section 3.5): no bit of the text is free
  need(type == "string" and length % 4 == 0; $what + " is not base64") | length as $length
  | rtrimstr("=") | rtrimstr("=") | explode | map(digit($what)) | length as $n
  | need($n % 4 != 1 and $length - $n == (4 - $n % 4) % 4; $what + " is not base64")
  | need($n % 4 == 0 or .[-1] % (if $n % 4 == 2 then 16 else 4 end) == 0; $what + " is not canonical base64")
  | [range(0; $n; 4) as $at | .[$at:$at + 4]
     | (.[0] * 4 + (.[1] / 16 | floor)),
       (if length > 2 then .[1] % 16 * 16 + (.[2] / 4 | floor) else empty end),
       (if length > 3 then .[2] % 4 * 64 + .[3] else empty end)];
def octal: map("\\" + (. / 64 | floor | tostring) + ((. / 8 | floor) % 8 | tostring) + (. % 8 | tostring)) | join("");
def fixed($what; $size): base64_bytes($what) | need(length == $size; $what + " has another length") | octal;
def hash($what): fixed($what; 32);
def unhex: explode | map(if . >= 97 then . - 87 else . - 48 end) | [range(0; length; 2) as $at | .[$at] * 16 + .[$at + 1]] | octal;
def digest($what): matches("sha256:[0-9a-f]{64}"; $what + " is not a digest") | .[7:] | unhex;

def pinned($kind):
  matches("[^\\s+\\x00-\\x1f\\x7f]{1,200}\\+[0-9a-f]{8}\\+[A-Za-z0-9+/]{44}"; "not a verifier key") | index("+") as $at
  | {name: .[:$at], tag: .[$at + 1:$at + 9] | unhex, typed: .[$at + 10:] | base64_bytes("a verifier key")}
  | need(.typed[0] == $kind; "not a key of the right kind: " + .name) | .public = (.typed[1:] | octal) | .typed |= octal;

# A note: origin, size, root, empty line, the log's signature, then the cosignatures by name: exactly those of $keys.
def note($keys; $what):
  need(type == "array" and length >= 6 and .[3] == "" and .[-1] == ""; $what + " is not a signed checkpoint")
  | . as $lines
  | [$lines[4:-1][] | matches("\u2014 [^\\s+\\x00-\\x1f\\x7f]{1,200} [A-Za-z0-9+/=]{1,200}"; $what + " has a line that is no signature")
     | .[2:] | split(" ") | {name: .[0], bytes: (.[1] | base64_bytes("a signature of " + $what))}
     | .tag = (.bytes[:4] | octal) | .bytes |= .[4:]] as $signed
  | need($lines[0] == $keys[0].name and $signed[0].name == $keys[0].name and $signed[0].tag == $keys[0].tag;
      "unknown log: " + $what + " is not of the pinned key")
  | need([$signed[] | {name, tag}] == [$keys[] | {name, tag}];
      $what + " is signed by " + ([$signed[].name] | join(", ")) + "; keys given: " + ([$keys[].name] | join(", ")))
  | ($lines[1] | matches("0|[1-9][0-9]{0,15}"; "the size of " + $what + " is not a number") | tonumber | whole("a size")) as $size
  | {size: $size, root64: $lines[2], root: ($lines[2] | hash("the root of " + $what)), what: $what,
     log: ($signed[0].bytes | need(length == 64; "the log's signature on " + $what + " has another length") | octal),
     witnesses: [$signed[1:][].bytes | need(length == 72; "a cosignature of " + $what + " has another length")
       | {time: (reduce .[:8][] as $byte (0; . * 256 + $byte)), signature: (.[8:] | octal)}
       | need(.time <= now + 300; $what + " was cosigned later than now by this machine's clock")]}
  | .time = ([.witnesses[].time] | max // 0);
def note_line: [(.size | tostring), .root64, .root, .log] + [.witnesses[] | "\(.time),\(.time | todate),\(.signature)"] | join(" ");

# Directions from a leaf to the root, each combined node by level and number (RFC 9162 section 2.1.3.2).
def up: .at = (.at / 2 | floor) | .last = (.last / 2 | floor) | .level += 1;
def climb($index; $size; $what): # input: hashes in octal
  need($index < $size and length <= 63; $what + " is not in the log")
  | reduce .[] as $hash ({at: $index, last: ($size - 1), level: 0, steps: []};
      if .last == 0 then refuse($what + " is not in the log")
      elif .at % 2 == 1 or .at == .last then
        until(.at % 2 == 1; up) | .steps += ["l:\(.level)_\(.at):\(.level)_\(.at - 1):" + $hash] | up
      else .steps += ["r:\(.level)_\(.at):\(.level)_\(.at + 1):" + $hash] | up end)
  | need(.last == 0; $what + " is not in the log") | .steps | if . == [] then "-" else join(",") end;

# Steps that lead from an earlier root to the final one (section 2.1.4.2): b joins both, s the later tree only.
def consistent($first; $root; $second): # input: hashes in octal
  need(0 < $first and $first < $second and length <= 126; "an earlier checkpoint is not smaller than the final one")
  | {at: ($first - 1), last: ($second - 1), level: 0, steps: []} as $start
  | (if ($first | until(. % 2 == 1; . / 2)) == 1 then [$root] + . else . end)
  | need(length > 0; "an earlier checkpoint has no consistency proof") | .[0] as $seed
  | reduce .[1:][] as $hash ($start | until(.at % 2 == 0; up);
      if .last == 0 then refuse("a consistency proof is too long")
      elif .at % 2 == 1 or .at == .last then .steps += ["b:" + $hash] | until(.at % 2 == 1 or .at == 0; up) | up
      else .steps += ["s:" + $hash] | up end)
  | need(.last == 0; "a consistency proof is too short") | $seed + " " + (.steps | if . == [] then "-" else join(",") end);

def envelope($what):
  members(["payload", "payloadType", "signatures"]; $what)
  | need(.payloadType == "application/vnd.in-toto+json"; $what + " is not an in-toto statement")
  | need(.signatures | type == "array" and length == 1; $what + " has not one signature")
  | (.signatures[0] | members(["keyid", "sig"]; "a signature of " + $what)) as $signature
  | .payload | need(type == "string"; $what + " has no payload") | . as $payload
  | ((try @base64d catch refuse($what + " is not base64")) | need(@base64 == $payload; $what + " is not canonical base64 of text")
     | need(contains("\n") | not; $what + " is not canonical JSON")
     | try fromjson catch refuse($what + " is not JSON"))
  | members(["_type", "predicate", "predicateType", "subject"]; $what)
  | need(._type == "https://in-toto.io/Statement/v1"; $what + " is not an in-toto statement")
  | {kind: (.predicateType | matches("urn:stannary:[a-z-]{1,32}:v1"; $what + " is of no known kind") | .[13:-3]),
     predicate: (.predicate | need(type == "object"; $what + " has no predicate")), payload: $payload,
     id: ($signature.keyid | matches("ed25519:[0-9a-f]{64}"; "a key id of " + $what + " is none") | .[8:] | unhex),
     signature: ($signature.sig | fixed("the signature of " + $what; 64))};

def rising: . == unique;
def market_kinds: ["assignment", "candidates", "credential", "draw", "placement", "silence", "verdict"];
def buyer_kinds: ["job", "reveal"];
def node_kinds: ["answer", "answer-commitment", "commitment", "contribution", "join", "reading"];
def among($names): . as $name | any($names[]; . == $name);

need(length == 1; "not one JSON document") | .[0]
| members(["checkpoints", "evidence", "format", "proof", "receipt"]; "the file")
| need(.format == "stannary.receipt/v3" or .format == "stannary.receipt/v2" or .format == "stannary.receipt/v1"; "not a receipt of a known format")
| . as $file

# the keys given: the market's, then the witnesses' in the order of a note
| ($keys | split("\n")) as $given
| ($given[0] | pinned(1)) as $market
| ([$given[1:][] | pinned(4)] | sort_by(.name) | need(([.[].name] | unique | length) == length; "a witness is given twice")
   | [$market] + .) as $pins

# the final checkpoint, and the receipt's place under it
| ($file.proof | need(type == "string"; "the proof is not text") | split("\n")) as $lines
| need($lines[0] == "c2sp.org/tlog-proof@v1"; "not a tlog-proof")
| ($lines[1] | matches("index (0|[1-9][0-9]{0,15})"; "the proof has no index") | .[6:] | tonumber | whole("the index")) as $index
| ($lines | need(any(. == ""); "the proof has no checkpoint") | index([""])) as $gap
| ($lines[$gap + 1:] | note($pins; "the final checkpoint")) as $final
| ([$lines[2:$gap][] | hash("a hash of the proof")] | climb($index; $final.size; "the receipt")) as $path

# the earlier checkpoints
| [$file.checkpoints | list("checkpoints") | .[] | members(["consistency", "note"]; "an earlier checkpoint")
   | (.note | need(type == "string"; "a checkpoint is not text") | split("\n") | note($pins; "an earlier checkpoint")) as $note
   | [.consistency | list("a consistency proof") | .[] | hash("a hash of a consistency proof")]
   | consistent($note.size; $note.root; $final.size) as $steps | $note + {steps: $steps}] as $earlier
| need([$earlier[].size, $final.size] | rising; "checkpoints are not in order of their size")
| need([$earlier[].time, $final.time] | . == sort; "checkpoints were cosigned out of order")

# the receipt and the statements in evidence
| ($file.receipt | envelope("the receipt") | need(.kind == "receipt"; "not a receipt statement")) as $receipt
| $receipt.predicate as $said
| [$file.evidence | list("evidence") | .[] | members(["envelope", "index", "path"]; "a statement in evidence")
   | (.index | whole("an index")) as $at | "the statement at log index \($at)" as $what
   | ([.path | list("a path") | .[] | hash("a hash of a path")] | climb($at; $final.size; $what)) as $steps
   | .envelope | envelope($what) + {index: $at, steps: $steps, what: $what}] as $evidence
| need([$evidence[].index, $index] | rising; "statements are not in log order, the receipt last")
| ([$said.evidence | list("the receipt's list") | .[] | digest("an entry of the receipt's list")]
   | need(length == ($evidence | length); "evidence is not what the receipt lists")) as $leaves

# one job, the receipt's, and its buyer; the nodes' keys, the last credential of each; whose signature each one needs
| ([$evidence[] | select(.kind == "job")] | need(length == 1; "not one job statement") | .[0]) as $job
| ($said.job_digest | digest("the job's digest")) as $job_hash
| need($said.job == "j-" + $said.job_digest[7:19]; "the receipt is of another job")
| ($job.predicate.market | tostring | matches("ed25519:[0-9a-f]{64}"; "the job names no market") | .[8:] | unhex) as $named
| {public: $market.public, node: "-", id: $named} as $by_market
| {public: ($job.predicate.buyer | hash("the buyer's key")), node: "-"} as $by_buyer
| (reduce ($evidence[] | select(.kind == "credential").predicate) as $held ({};
    ($held.node | matches("n-[0-9a-f]{12}"; "a node's name is none")) as $node
    | .[$node] = {public: ($held.key | hash("a node's key")), node: ($node[2:] | unhex)})) as $nodes
| [$evidence[] | .what as $what
   | if (.kind | among(market_kinds)) then .signer = $by_market
     elif (.kind | among(buyer_kinds)) then .signer = $by_buyer
     elif (.kind | among(node_kinds)) then .signer = $nodes[.predicate.node | tostring]
     else refuse($what + " is of a kind that has no place here") end
   | need(.signer != null; $what + " is of a node without a credential")
   | need(.kind == "join" or .kind == "credential" or .kind == "job" or .predicate.job == $said.job; $what + " is of another job")
  ] as $signed
| (reduce $signed[] as $item ({}; .[$item.signer.public] = (.[$item.signer.public] // $item.id)
   | need(.[$item.signer.public] == $item.id; $item.what + " is signed by another key"))
   | .[$market.public] = (.[$market.public] // $receipt.id)
   | need(.[$market.public] == $receipt.id and $named == $receipt.id; "signed by another key than the market's")) as $ids

# earlier checkpoints are those that reveals name, with their roots
| [$signed[] | select(.kind == "reveal").predicate
   | [(.checkpoint_size | whole("a checkpoint's size")), (.checkpoint_root | digest("a checkpoint's root"))]] as $used
| need(($used | unique) == ([$earlier[] | [.size, .root]] | unique); "earlier checkpoints are not those the draws were made for")

| ($pins[] | "key \(.name) \(.tag) \(.typed) \(.public)"),
  "final \($index) " + ($final | note_line),
  ($earlier[] | "earlier \(.steps) " + note_line),
  ([$signed[].signer, $by_market] | map({public, node}) | unique[] | "signer \($ids[.public]) \(.public) \(.node)"),
  "receipt \($receipt.signature) \($path)",
  (range(0; $signed | length) as $at | $signed[$at]
   | "statement \(.index) \($leaves[$at]) \(if .kind == "job" then $job_hash else "-" end) \(.signature) \(.signer.public) \(.steps) \(.payload)"),
  "said \($said.job) \($said.status | matches("[a-z-]{1,32}"; "no status")) \($said.verdict | matches("[a-z-]{1,32}"; "no verdict"))"
END

unique_members "$file" || fail "not one JSON object whose members have one name each"
keys=$(printf '%s\n' "$@")
jq -rs --arg keys "$keys" -f "$work/plan.jq" < "$file" > "$work/plan" 2> "$work/why" ||
  fail "$(sed -n 's/^.*REFUSED \(.*\)$/\1/p;$s/^.*$/not a receipt this script can read/p' < "$work/why" | head -n 1 | tr -cd '[:print:]' | head -c 300)"
jq -r '.receipt.payload, .evidence[].envelope.payload | @base64d' < "$file" > "$work/statements"
unique_members "$work/statements" || fail "a statement has two members of one name"
jq -j .receipt.payload < "$file" | base64 -d > "$work/receipt-payload"

# --- the shell's part: hashes and signatures. Bytes are octal escapes, which every printf writes. ---
# shellcheck disable=SC2046  # words of three digits
octal() { printf '\\%s' $(od -An -v -to1); }
sha256() { openssl dgst -sha256 -binary | octal; }
# shellcheck disable=SC2059  # the format is octal escapes of the plan
hash_of() { printf "$1" | sha256; }

# Ed25519 over the file $1: public key $2, signature $3. The prefix is the DER of an Ed25519 public key.
# shellcheck disable=SC2059
check_signature() {
  printf "\060\052\060\005\006\003\053\145\160\003\041\000$2" > "$work/key.der"
  printf "$3" > "$work/sig"
  openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" -rawin -in "$1" -sigfile "$work/sig" >/dev/null 2>&1
}

# The bytes that are signed: "DSSEv1 <length> <type> <length> <payload>".
write_pae() { # PAYLOAD_FILE
  { printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < "$1")"; cat "$1"; } > "$work/pae"
}

take_step() { # the first of $steps to $step
  case $steps in *,*) step=${steps%%,*}; steps=${steps#*,} ;; *) step=$steps; steps= ;; esac
}

# From a leaf to the root. What a path has proven is compared for the next leaf, not hashed again: node_<level>_<number>.
climb() { # LEAF STEPS
  node=$(hash_of "\\000$1"); proven=
  [ "$2" = - ] && steps= || steps=$2
  while [ -n "$steps" ]; do
    take_step
    side=${step%%:*}; step=${step#*:}; own=${step%%:*}; step=${step#*:}; beside=${step%%:*}; sibling=${step#*:}
    case $own$beside in *[!0-9_]*) fail "the plan is not one" ;; esac
    eval "known=\${node_$own-} known_beside=\${node_$beside-}"
    if [ -n "$proven" ] || [ -n "$known" ]; then
      [ -n "$proven" ] || [ "$known" = "$node" ] || return 1
      [ "$known_beside" = "$sibling" ] || return 1
      proven=yes; continue
    fi
    eval "node_$own=\$node node_$beside=\$sibling"
    if [ "$side" = l ]; then node=$(hash_of "\\001$sibling$node"); else node=$(hash_of "\\001$node$sibling"); fi
  done
  [ -n "$proven" ] || [ "$node" = "$root" ]
}

# Both roots from one proof; a path of the smaller tree is part of the larger one's.
consistent() { # SEED STEPS EARLIER_ROOT
  first=$1; second=$1
  [ "$2" = - ] && steps= || steps=$2
  while [ -n "$steps" ]; do
    take_step; hash=${step#*:}
    if [ "${step%%:*}" = b ]; then
      first=$(hash_of "\\001$hash$first"); second=$(hash_of "\\001$hash$second")
    else
      second=$(hash_of "\\001$second$hash")
    fi
  done
  [ "$first" = "$3" ] && [ "$second" = "$root" ]
}

# The log's signature and each witness's. Key 0 is the log's; words after the fourth are the cosignatures.
check_note() { # WHAT SIZE ROOT64 ROOT SIGNATURE [TIME,DATE,SIGNATURE ...]
  what=$1
  printf '%s\n%s\n%s\n' "$key_name_0" "$2" "$3" > "$work/text"
  check_signature "$work/text" "$key_public_0" "$5" || fail "the log's signature on $what does not hold"
  shift 5; number=0
  for cosignature; do
    number=$((number + 1)); eval "name=\$key_name_$number public=\$key_public_$number"
    { printf 'cosignature/v1\ntime %s\n' "${cosignature%%,*}"; cat "$work/text"; } > "$work/cosigned"
    check_signature "$work/cosigned" "$public" "${cosignature##*,}" || fail "the cosignature of $name on $what does not hold"
    cosignature=${cosignature#*,}
    [ "$what" != "the final checkpoint" ] || printf 'witness  %s at %s\n' "$name" "${cosignature%%,*}"
  done
}

num_keys=0; num_earlier=0; num_statements=0; root=; checked=; said=
while read -r kind rest; do
  # shellcheck disable=SC2086  # words of the plan hold no blanks, and globbing is off
  set -- $rest
  case $kind in
    key)
      [ "$({ printf '%s\n' "$1"; printf "$3"; } | sha256 | head -c 16)" = "$2" ] || fail "a key does not match its hash: $1"
      eval "key_name_$num_keys=\$1 key_public_$num_keys=\$4"; num_keys=$((num_keys + 1)) ;;
    final)
      index=$1; root=$4; printf 'log      %s, %s leaves\n' "$key_name_0" "$2"; shift
      check_note "the final checkpoint" "$@" ;;
    earlier)
      consistent "$1" "$2" "$5" || fail "an earlier checkpoint is not consistent with the final one"
      shift 2; check_note "an earlier checkpoint" "$@"; num_earlier=$((num_earlier + 1)) ;;
    signer)
      case " $checked " in *" $2/$3 "*) continue ;; esac
      id=$(hash_of "$2"); [ "$id" = "$1" ] || fail "a statement is signed by another key than its kind demands"
      node=${3#-}
      case $id in "$node"*) ;; *) fail "a node's key is not the one it is named after" ;; esac
      checked="$checked $2/$3" ;;
    receipt)
      write_pae "$work/receipt-payload"
      check_signature "$work/pae" "$key_public_0" "$1" || fail "the market's signature on the receipt does not hold"
      climb "$(sha256 < "$work/pae")" "$2" || fail "the receipt is not in the log" ;;
    statement)
      base64 -d > "$work/payload" <<END
$7
END
      write_pae "$work/payload"; leaf=$(sha256 < "$work/pae")
      [ "$leaf" = "$2" ] || fail "the statement at log index $1 is not the one the receipt lists"
      climb "$leaf" "$6" || fail "the statement at log index $1 is not in the log"
      check_signature "$work/pae" "$5" "$4" || fail "the signature of the statement at log index $1 does not hold"
      [ "$3" = - ] || [ "$(sha256 < "$work/payload")" = "$3" ] || fail "the receipt is of another job"
      num_statements=$((num_statements + 1)) ;;
    said) said="$1, $2, verdict $3" ;;
    *) fail "the plan is not one" ;;
  esac
done < "$work/plan"
[ -n "$said" ] || fail "the plan is not whole"
printf 'receipt  %s, log index %s\n' "$said" "$index"
printf 'earlier  %s checkpoints, consistent with the final one\n' "$num_earlier"
printf 'evidence %s statements, all signed, in the log and in the receipt\n' "$num_statements"
printf 'not checked here: draws, audits, verdicts, money, results (stannary verify checks them)\n'
printf 'OK\n'
