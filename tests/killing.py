"""Kill runs and resume them: a script of its own, for children can only be forked before torch has run a backward pass.

    python killing.py PLAN.json FOLDER MOMENTS      prints one JSON object

Imports and models are loaded once; every run is a child of that. A moment is a share of the whole run's time ("0.35"),
the number of a write to disk ("w12": the process ends just before it, "W12": just after), or the end of a name
("@lesson.json": just before a file or folder gets that name).
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from perdure import files, plan, run, score
from perdure.backbones import loading
from perdure.lineage import Lineage

torch.set_num_threads(1)


def child(made, out: Path, prepare=lambda: None) -> int:
    """Start a run; returns the process id."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            run.run(made, out, device="cpu")
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def finished(pid: int) -> bool:
    """Wait for a child; whether it ended well."""
    return os.waitpid(pid, 0)[1] == 0


def die_at_write(moment: str) -> None:
    """Make this process kill itself when a file or folder is about to get its name, or to be deleted."""
    seen = 0

    def dying(real):
        def call(*args, **options):
            nonlocal seen
            seen += 1
            if str(args[-1]).endswith(moment[1:]) if moment[0] == "@" else seen == int(moment[1:]):
                if moment[0] == "W":
                    real(*args, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for name in ("rename", "replace", "unlink"):
        setattr(Path, name, dying(getattr(Path, name)))


def attempt(made, out: Path, moment: str, whole: float) -> dict:
    """One run killed at a moment and resumed to its end."""
    if moment[0] in "wW@":
        pid = child(made, out, lambda: die_at_write(moment))
    else:
        pid = child(made, out)
        time.sleep(float(moment) * whole)
        os.kill(pid, signal.SIGKILL)
    killed = not finished(pid)
    half = [p.name for p in out.rglob("*.partial")] if killed else []
    done = len(list(out.rglob("lesson.json")))
    return {
        "moment": moment,
        "killed": killed,
        "unfinished": half,
        "lessons": done,
        "resumed": finished(child(made, out)),
        **state(out),
    }


def state(out: Path) -> dict:
    """What must not depend on kills: the memories and pictures bit for bit; and what may not be left."""
    lineages = [Lineage(p.parent) for p in sorted(out.glob("*/lineage.json"))]
    digests = {line.folder.name: [row.record["memory"] for row in line.lessons] for line in lineages}
    steps = {line.folder.name: [[log["step"] for log in row.losses()] for row in line.lessons] for line in lineages}
    pictures = {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.png"))}
    packs = {p.relative_to(out) for p in out.rglob("store/*")}
    used = {
        row.folder.relative_to(out).parents[1] / "store" / pack
        for line in lineages for row in line.lessons for _, pack in files.read_json(row.memory)["tensors"].values()
    }  # fmt: skip
    left = [str(p.relative_to(out)) for pattern in ("*.partial", "*.tmp", "checkpoint*") for p in out.rglob(pattern)]
    listing = sorted(str(p.relative_to(out)) for p in out.rglob("*"))
    return {
        "digests": digests,
        "steps": steps,
        "pictures": pictures,
        "orphans": sorted(map(str, packs ^ used)),
        "left": left,
        "listing": listing,
    }


def main(data: dict, folder: Path, moments: list[str]) -> None:
    made = plan.build(data)
    loading.load(made.base, device="cpu")
    for name in made.scoring.subject:
        score.load(name, made.scoring.models[name])
    started = time.perf_counter()
    assert finished(child(made, folder / "whole"))
    whole = time.perf_counter() - started
    attempts = [attempt(made, folder / f"attempt-{number}", m, whole) for number, m in enumerate(moments)]
    print(json.dumps({"seconds": whole, "whole": state(folder / "whole"), "attempts": attempts}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3].split(","))
