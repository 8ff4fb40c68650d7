"""Kill runs and resume them: a script of its own, for children can only be forked before torch has run a backward pass.

    python killing.py PLAN.json FOLDER MOMENTS      prints one JSON object

Imports and models are loaded once; every run is a child of that. A moment is never a time: it is a share of the events
of the whole run ("0.35": predictions of the model, and names given and taken on disk), or the end of a name
("@lesson.json": just before a file or folder gets that name).
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from perdure import files, plan, run, score
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.lineage import Lineage

torch.set_num_threads(1)
os.fsync = lambda handle: None  # what a killed process has written is there; only a loss of power would lose it


def child(made, out: Path, prepare=list) -> int:
    """Start a run; returns the process id. `prepare`: hands back a list that is as long as the events so far."""
    pid = os.fork()
    if pid == 0:
        try:
            seen = prepare()
            run.run(made, out, device="cpu")
            out.with_suffix(".events").write_text(str(len(seen)))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def finished(pid: int) -> bool:
    """Wait for a child; whether it ended well."""
    return os.waitpid(pid, 0)[1] == 0


def watching(moment: int | str | None = None) -> list[int]:
    """Count the events of this process, which kills itself just before the one that is meant."""
    seen: list[int] = []

    def watched(real):
        def call(*args, **options):
            seen.append(1)
            if len(seen) == moment or (isinstance(moment, str) and str(args[-1]).endswith(moment)):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for owner, names in ((Path, ("rename", "replace", "unlink")), (Backbone, ("predict",))):
        for name in names:
            setattr(owner, name, watched(getattr(owner, name)))
    return seen


def attempt(made, out: Path, moment: str, events: int) -> dict:
    """One run killed at a moment and resumed to its end."""
    meant = moment[1:] if moment[0] == "@" else max(1, round(float(moment) * events))
    killed = not finished(child(made, out, lambda: watching(meant)))
    return {
        "moment": moment,
        "killed": killed,
        "lessons": len(list(out.rglob("lesson.json"))),
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
    backbone = loading.load(made.base, device="cpu")
    loading.load = lambda *which: backbone  # no parent ever uses it: each child finds it as new
    for name in made.scoring.subject:
        score.load(name, made.scoring.models[name])
    assert finished(child(made, folder / "whole", watching))
    events = int((folder / "whole.events").read_text())
    attempts = [attempt(made, folder / f"attempt-{number}", m, events) for number, m in enumerate(moments)]
    print(json.dumps({"events": events, "whole": state(folder / "whole"), "attempts": attempts}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3].split(","))
