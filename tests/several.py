"""Runs on two processes, without a launcher: a script of its own, for children can only be forked before torch has
run a backward pass.

    python several.py PLAN.json FOLDER      prints one JSON object

Imports are done and models are read once; every process is a child of that.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from killing import state

from perdure import plan, run, score
from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.bases.classifier import Classifier
from perdure.bases.processes import several
from perdure.lineage import Lineage

torch.set_num_threads(1)
PATIENCE = 900
"""Seconds after which a process that hangs is ended; one that works needs a few."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def child(made, out: Path, prepare, **variables: str) -> int:
    """Start a process of a run; returns its id. Beside the run's folder it leaves how often it drew and predicted."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(PATIENCE)
    os.environ.update(variables)
    counts = {name: counting(name) for name in ("draw", "predict")} | {"learnt": learning()}
    code = 1
    try:
        prepare()
        run.run(made, out)
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except Exception as error:
        print(repr(error), file=sys.stderr)
    finally:
        told = {name: len(calls) for name, calls in counts.items()}
        Path(f"{out}-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(told))
        if code == 0 and variables.get("RANK") == "0":
            several()._dismiss()  # which is done at a usual exit
        os._exit(code)


def counting(name: str) -> list[int]:
    """Count the calls of a method of the backbone."""
    calls, real = [], getattr(Backbone, name)

    def call(*args, **options):
        calls.append(1)
        return real(*args, **options)

    setattr(Backbone, name, call)
    return calls


def learning() -> list[int]:
    """The pictures that a classifier's steps go through, a 1 each."""
    seen, real = [], Classifier.features

    def features(self, pictures, training):
        if torch.is_grad_enabled():
            seen.extend([1] * len(pictures))
        return real(self, pictures, training)

    Classifier.features = features
    return seen


def alone(made, out: Path) -> dict:
    """A run on one process."""
    ended = os.waitpid(child(made, out, lambda: None), 0)[1]
    return {"ended": [ended], **found(out, ["alone"])}


def two(made, out: Path, first=lambda: None, second=lambda: None) -> dict:
    """A run on two processes, each with something done to it before."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    pids = [child(made, out, do, RANK=str(n), LOCAL_RANK=str(n), **place) for n, do in enumerate((first, second))]
    ended = [os.waitpid(pid, 0)[1] for pid in pids]
    return {"ended": ended, **found(out, ["0", "1"])}


def found(out: Path, ranks: list[str]) -> dict:
    """What a run has left on disk."""
    counts = [Path(f"{out}-{rank}.json") for rank in ranks]
    scores = {p.parent.name: scored(p.parent) for p in sorted(out.glob("*/lineage.json"))}
    return {
        "counts": [json.loads(path.read_text()) if path.is_file() else None for path in counts],
        "scores": {name: [[0.0 if v != v else v for v in row] for row in rows] for name, rows in scores.items()},
        **state(out),
    }


def scored(folder: Path) -> list[list[float]]:
    lineage = Lineage(folder)
    return lineage.matrix(next(iter(lineage.measures), "clip_i")).tolist()


def dying(name: str, moment: int):
    """Let the process kill itself at the n-th call of a method of the backbone."""

    def prepare() -> None:
        left, real = iter(range(moment, -1, -1)), getattr(Backbone, name)

        def call(*args, **options):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(Backbone, name, call)

    return prepare


def main(data: dict, folder: Path) -> None:
    made = plan.build(data)
    load, where = loading.how(made, "cpu")
    load(*where)
    AcceleratorState._reset_state(reset_partial_state=True)  # what was found here, a child finds anew
    several.cache_clear()
    for name in made.scoring.subject if made.task is None else ():
        score.load(name, made.scoring.models[name])
    told = {"alone": alone(made, folder / "alone"), "two": two(made, folder / "two")}
    if made.task is not None:
        print(json.dumps(told))
        return
    told["killed"] = two(made, folder / "resumed", first=dying("predict", 19))
    told["resumed"] = two(made, folder / "resumed")
    told["helper killed"] = two(made, folder / "helped", second=dying("predict", 3))
    print(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
