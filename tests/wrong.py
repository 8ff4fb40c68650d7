"""Wrong formulas, each put into a copy of the project: the tests named beside it must notice.

`python -m tests.wrong` tries them all; with `--only 3 7` these. Exit code 1 where one lives, or is no longer found in
its file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TWINS = "tests/twins/test_twin_"


class Wrong(NamedTuple):
    """A formula, what is put in its place, and the tests (pytest's words) that must fail then."""

    what: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


WRONG = (
    Wrong("a regulariser's sign flipped", "parts/guard.py", "return weight * torch.stack([(importance",
          "return -weight * torch.stack([(importance", (f"{TWINS}guards.py", "-k", "l2")),
    Wrong("a distillation under the wrong prompts", "parts/guard.py", "context.model.before(step.batch, others)",
          "context.model.before(step.batch)", (f"{TWINS}teachers.py", "-k", "three_lessons and lwf")),
    Wrong("a teacher that is the model in training", "lesson/model.py", "return self.under(self.past, batch, prompts)",
          "return self.predict(batch, prompts)", (f"{TWINS}teachers.py", "-k", "three_lessons and lwf")),
    Wrong("replay of the current batch", "parts/rehearsal.py", "batch = step.portion.of(whole)", "batch = step.batch",
          (f"{TWINS}teachers.py", "-k", "three_lessons and replay")),
    Wrong("replay drawn by the base", "lesson/model.py", "drawing = self.past if under is None else under",
          "drawing = Delta() if under is None else under", (f"{TWINS}teachers.py", "-k", "generative_replay")),
    Wrong("a Fisher sum without its mean", "parts/consolidate.py", "gradient.square().cpu() / samples",
          "gradient.square().cpu()", (f"{TWINS}guards.py", "-k", "ewc")),
    Wrong("a Fisher that forgets", "parts/consolidate.py", "gamma * old[name] + fisher", "fisher",
          (f"{TWINS}guards.py", "-k", "ewc")),
    Wrong("scores for another prompt", "parts/classifier.py", "temperature)[:, 0].mean()",
          "temperature)[:, 1].mean()", (f"{TWINS}teachers.py", "-k", "classifier")),
    Wrong("two teachers that are one", "parts/classifier.py", '(memory.delta(f"pool/{past}"), theirs)',
          "(taught, theirs)", (f"{TWINS}teachers.py", "-k", "classifier")),
    Wrong("the absolute value lost in cidm", "methods/cidm.py", ".to(ups[name]).T).abs().mean()",
          ".to(ups[name]).T).mean()", (f"{TWINS}guards.py", "-k", "cidm")),
    Wrong("mix of cidm without its power", "methods/cidm.py", ".mean() for c in kept]) ** power",
          ".mean() for c in kept])", (f"{TWINS}guards.py", "-k", "cidm")),
    Wrong("masks that learn nothing", "parts/adapter.py", "(soft - soft.detach())", "0 * soft",
          (f"{TWINS}guards.py", "-k", "stamina")),
    Wrong("a temperature that rises", "parts/guard.py", "tau ** (number / max(1, context.steps - 1))",
          "tau ** (1 - number / max(1, context.steps - 1))", (f"{TWINS}guards.py", "-k", "stamina")),
    Wrong("a pull away from the base", "parts/guard.py", "(before + now).square().sum()",
          "(before - now).square().sum()", (f"{TWINS}guards.py", "-k", "cns and both")),
    Wrong("the smaller of two", "parts/consolidate.py", "new.abs() >= old.abs()", "new.abs() <= old.abs()",
          (f"{TWINS}merging.py", "tests/test_formulas.py", "-k", "magmax")),
    Wrong("min-SNR of a velocity as of noise", "bases/objective.py", "(snr + 1 if self._velocity else snr)", "snr",
          (f"{TWINS}merging.py", "-k", "velocity")),
    Wrong("prior preservation without its weight", "lesson/model.py", "= training.prior.weight * self.backbone.loss(",
          "= self.backbone.loss(", (f"{TWINS}merging.py", "-k", "everything and naive")),
    Wrong("words at the weights' rate", "lesson/optimizing.py",
          "((1.0, list(adapter.weights.named().values())), (words, ",
          "((1.0, list(adapter.weights.named().values())), (1.0, ", (f"{TWINS}guards.py", "-k", "two_text")),
    Wrong("forgetting since the base", "score/matrix.py", "np.fmax.reduce(R[j + 1 :, j])", "np.fmax.reduce(R[:, j])",
          ("tests/test_matrix.py",)),
    Wrong("no sign elected", "parts/fusion.py", "agree = stack.sign() == elected", "agree = stack != 0",
          ("tests/test_fusion.py", "-k", "ties")),
    Wrong("least squares of the last lesson", "parts/regression.py", "kept[leader] = (before + gram).float()",
          "kept[leader] = gram.float()", ("tests/test_regression.py", "-k", "joint")),
    Wrong("a merge that forgets other captions", "parts/regression.py",
          "directions = torch.cholesky_solve(words.T, torch.linalg.cholesky(gram))", "directions = words.T",
          ("tests/test_regression.py", "-k", "kkt")),
    Wrong("a verdict inverted", "advise/verdict.py", "x.mean(axis=(0, 1)).argmax()", "x.mean(axis=(0, 1)).argmin()",
          ("tests/test_advise.py",)),
)  # fmt: skip


def lives(one: Wrong, folder: Path) -> str:
    """Why a wrong formula is not noticed; nothing where it is."""
    for name in ("perdure", "tests", "plans", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / "perdure" / one.file
    text = path.read_text(encoding="utf-8")
    if text.count(one.right) != 1:
        return f"{one.right!r} stands {text.count(one.right)} times in {one.file}"
    path.write_text(text.replace(one.right, one.wrong), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *one.tests]
    told = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    return {0: "no test fails", 1: ""}.get(told.returncode, f"the tests do not run: {told.stdout[-300:]}")


def main() -> None:
    """Try them, and say what became of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of some")
    wanted = parser.parse_args().only or range(1, len(WRONG) + 1)
    living = 0
    for number in wanted:
        with tempfile.TemporaryDirectory() as folder:
            why = lives(WRONG[number - 1], Path(folder))
        living += bool(why)
        print(f"{number:2} {WRONG[number - 1].what}: {why or 'noticed'}", flush=True)
    sys.exit(living > 0)


if __name__ == "__main__":
    main()
