"""A share of mutmut's mutants, drawn by a seed: `python -m tests.mutants --sample 200 --seed 0`.

`make mutants` tries them all, for days on two cores; a sample says within an hour or two what share the tests
notice, and how well that is known. What was tried already is not tried again: stopped, it goes on.
"""

import argparse
import collections
import json
import random
import subprocess
from pathlib import Path

from mutmut.stats import status_by_exit_code
from scipy.stats import binomtest

NONE = "no mutant is called this"


def main() -> None:
    """Draw, try, and tell what lives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path has this in it")
    given = parser.parse_args()
    told = subprocess.run(["mutmut", "run", NONE], capture_output=True, text=True)  # writes mutants, times tests
    everything = sorted(_tried(given.only))
    if not everything:
        raise SystemExit(told.stdout + told.stderr)
    drawn = random.Random(given.seed).sample(everything, min(given.sample, len(everything)))
    if left := [name for name in drawn if _tried(given.only)[name] is None]:
        subprocess.run(["mutmut", "run", "--max-children", "1", *left], check=True)
    tried = _tried(given.only)
    states = collections.Counter(status_by_exit_code[tried[name]] for name in drawn)
    noticed = states["killed"] + states["timeout"]
    interval = binomtest(noticed, len(drawn)).proportion_ci(0.95)
    print(f"\n{noticed} of {len(drawn)} noticed, drawn from {len(everything):,}: {noticed / len(drawn):.1%}")
    print(f"95 % interval {interval.low:.1%} to {interval.high:.1%}; {dict(states)}")
    for name in sorted(drawn):
        if status_by_exit_code[tried[name]] not in ("killed", "timeout"):
            print(f"{status_by_exit_code[tried[name]]}: mutmut show {name}")


def _tried(only: str) -> dict[str, int | None]:
    """Exit codes of all mutants by name, as mutmut keeps them."""
    files = sorted(Path("mutants").glob("perdure/**/*.meta"))
    kept = [json.loads(file.read_text())["exit_code_by_key"] for file in files if only in file.as_posix()]
    return {name: code for codes in kept for name, code in codes.items()}


if __name__ == "__main__":
    main()
