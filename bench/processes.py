"""Whole runs of the embedded base as processes: killed and started again, and shared out over two cards."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from perdure.lineage import Lineage


def killed(device: str, steps: int = 24) -> dict[str, Any]:
    """A run of the embedded base whose process is killed inside a lesson, and started again, beside one left alone."""
    settings = [f"training.steps={steps}", "training.checkpoint_every=4", "methods=[naive]", "scoring.drift=0",
                "sampling.steps=2", "sampling.images_per_prompt=1"]  # fmt: skip
    words = [sys.executable, "-m", "perdure", "run", "demo", "--device", device]
    words += [word for setting in settings for word in ("--set", setting)]
    with TemporaryDirectory() as folder:
        alone, broken = (Path(folder) / name for name in ("alone", "broken"))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([*words, "--out", str(alone)], check=True, **quiet)
        with subprocess.Popen([*words, "--out", str(broken)], **quiet) as process:
            while process.poll() is None and not list(broken.rglob("checkpoint.safetensors")):
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        subprocess.run([*words, "--out", str(broken)], check=True, **quiet)
        whole, again = ([row.record["memory"] for row in Lineage(out / "naive").lessons] for out in (alone, broken))
    return {"lessons": len(whole), "bit-equal": whole == again}


def shared() -> dict[str, Any]:
    """The demo on two cards by `accelerate launch`, beside one: seconds of each."""
    spent = []
    with TemporaryDirectory() as folder:
        for count in (1, 2):
            launch = [
                sys.executable,
                "-m",
                "accelerate.commands.launch",
                "--num_processes",
                str(count),
                "-m",
                "perdure",
            ]
            run = ["run", "demo", "--out", str(Path(folder) / str(count)), "--set", "methods=[naive]"]
            started = time.perf_counter()
            subprocess.run([*launch, *run], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            spent.append(time.perf_counter() - started)
    return {"one card, s": round(spent[0], 1), "two, s": round(spent[1], 1)}
