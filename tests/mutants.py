"""A share of mutmut's mutants, drawn by a seed: `python -m tests.mutants --sample 200 --seed 0`.

`make mutants` tries them all, for days on two cores; a sample says within an hour or two what share the tests
notice, and how well that is known. What was tried already is not tried again: stopped, it goes on.

With `--seconds 60` a mutant gets those of its tests, the quickest first, that take so long together; what only slower
ones would notice counts as unnoticed, so the share is too low rather than too high. The tests are then not run once
more on right code first, which mutmut's own trial begins with: timing them has shown that they pass.
"""

import argparse
import collections
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import mangled_name_from_mutant_name
from scipy.stats import binomtest

NONE = "no mutant is called this"
NO_TESTS, HUNG = 33, 36
"""mutmut's exit codes where no test calls the code, and where its tests did not end."""
HANGS = 600
"""Seconds after which a mutant's tests are stopped."""


def main() -> None:
    """Draw, try, and tell what lives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path has this in it")
    parser.add_argument("--seconds", type=float, help="of tests a mutant, the quickest first; without: all")
    given = parser.parse_args()
    told = subprocess.run(["mutmut", "run", NONE], capture_output=True, text=True)  # writes mutants, times tests
    everything = sorted(_tried(given.only))
    if not everything:
        raise SystemExit(told.stdout + told.stderr)
    drawn = random.Random(given.seed).sample(everything, min(given.sample, len(everything)))
    if given.seconds:
        tried: dict[str, int | None] = _within(drawn, given.seconds)
    else:
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


def _within(names: list[str], seconds: float) -> dict[str, int | None]:
    """Exit codes of mutants' tests: of each the quickest ones, of so many seconds together as mutmut timed them."""
    import pytest

    known = json.loads(Path("mutants/mutmut-stats.json").read_text())
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["mutmut"]
    words, took, found = settings["pytest_add_cli_args"], known["duration_by_test"], {}
    os.chdir("mutants")
    sys.path[0], os.environ["MUTANT_UNDER_TEST"] = os.getcwd(), ""
    pytest.main(["-qq", "--collect-only", "--rootdir=.", *words, *settings["pytest_add_cli_args_test_selection"]])
    for name in names:  # each in a process that has all imported
        called = known["tests_by_mangled_function_name"].get(mangled_name_from_mutant_name(name), ())
        tests, spent = [], 0.0
        for test in sorted(called, key=took.__getitem__):
            if not tests or spent + took[test] <= seconds:
                tests, spent = [*tests, test], spent + took[test]
        found[name] = _ended(name, ["-x", "-q", "--rootdir=.", *words, *tests], spent) if tests else NO_TESTS
        print(len(found), status_by_exit_code[found[name]], name, f"{len(tests)} tests of {spent:.1f} s", flush=True)
    os.chdir("..")
    return found


def _ended(name: str, words: list[str], spent: float) -> int:
    """The exit code of pytest with a mutant in the place of what it is made of, in a process of its own."""
    import pytest

    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.environ["MUTANT_UNDER_TEST"] = name
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        limit = int(30 * (spent + 1))  # as mutmut's own
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        signal.signal(signal.SIGALRM, lambda *_: os._exit(HUNG))
        signal.alarm(HANGS)
        os._exit(int(pytest.main(words)))


if __name__ == "__main__":
    main()
