"""What each word of `trust.assurance` costs, and what may still be faked under it, by the size of the job.

    python bench/words.py [--nodes 4] [--json]

Equal units shared evenly by so many nodes, reckoned with the functions that client, market and verifier use. A share of
units is computed again by another operator, which costs what the unit costs. `tenth` is the probability that a tenth of
the units, faked, pass unseen; of `sampled` it is no promise: there faking must be a loss, however often it passes.
In the buyer's own code a unit with little behind it is drawn more often (rules/stake.py); `built-in` is code of this
package, where a bond is at stake (rules/blame.py).
"""

from __future__ import annotations

import argparse
import json
import sys

from stannary.formats.predicates import Assurance
from stannary.formats.quantity import PPM
from stannary.rules import assurance, blame, stake

GAIN_PPM, DETECTION_PPM = 600_000, 990_000  # what faking saves at best; how often a recomputation finds it
SIZES = (4, 10, 100, 1000)


def share_of(word: Assurance, units: int, nodes: int, *, own_code: bool) -> float:
    """Return the share of units to expect recomputed."""
    signed = assurance.least_ppm(word, units, DETECTION_PPM)
    least_one = min(nodes, units) / units  # of every operator at least one
    if not own_code:
        bond = stake.least_ppm(GAIN_PPM, DETECTION_PPM, 1, blame.CAP_PRICES)
        return max((max(signed, bond) if word is Assurance.SAMPLED else signed) / PPM, least_one)
    each, more = divmod(units, nodes)
    drawn = 0
    for at in range(each + bool(more)):
        least = stake.least_ppm(GAIN_PPM, DETECTION_PPM, 1, min(at, stake.HELD_UNITS))
        drawn += max(signed, min(least, PPM)) * (nodes if at < each else more)
    return max(drawn / PPM / units, assurance.needed(word, units, DETECTION_PPM) / units, least_one)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4, help="nodes, each of an operator of its own")
    parser.add_argument("--json", action="store_true", help="print one object a row")
    args = parser.parse_args()
    if not args.json:
        print(f"{args.nodes} nodes; share of units computed again, and how often a faked tenth passes unseen")
        print(f"{'word':10} {'code':9} {'units':>6} {'again':>7} {'tenth':>7}")
    for word in Assurance:
        for own_code in (True, False):
            for units in SIZES:
                share = share_of(word, units, args.nodes, own_code=own_code)
                tenth = 0.0 if share >= 1 else (1 - share * DETECTION_PPM / PPM) ** assurance.tenth(units)
                row = {"word": str(word), "code": "own" if own_code else "built-in", "units": units}
                if args.json:
                    print(json.dumps({**row, "again": round(share, 4), "tenth": round(tenth, 4)}))
                else:
                    print(f"{row['word']:10} {row['code']:9} {units:6,} {share:7.1%} {tenth:7.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
