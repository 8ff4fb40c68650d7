"""Several training processes on one machine, each on one thread, joined by gloo; with one process nothing is joined."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
import torch.distributed as dist


def rank_and_count() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join(meeting: Path, rank: int, count: int) -> None:
    """Join the group that meets at the file `meeting`; on one thread, which is fastest for nets this small."""
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)


def end_with_the_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended: then nothing holds its pipe."""

    def follow() -> None:
        while os.read(0, 1):  # not by sys.stdin, whose lock Python wants when it ends
            pass
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_together(arguments: list[str], count: int) -> None:
    """Run `python -m perdure.toybox.pretrain.worker MEETING RANK COUNT arguments...` `count` times at once.

    When one fails the others are ended and CalledProcessError is raised.
    """
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        start = [sys.executable, "-m", "perdure.toybox.pretrain.worker", f"{folder}/meeting"]
        commands = [[*start, str(rank), str(count), *arguments] for rank in range(count)]
        running = [subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) for command in commands]
        try:
            for process, command in zip(running, commands, strict=True):
                if process.wait():
                    raise subprocess.CalledProcessError(process.returncode, command)
        finally:
            for process in running:
                if process.poll() is None:
                    process.terminate()
