"""What this installation has: versions, device, models, and what would be downloaded."""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch

from perdure import __version__, score
from perdure.bases import loading, outline
from perdure.plan import TOYBOX, TOYFLOW
from perdure.score.sources import offline
from perdure.sweep.local import cores

HUB_MODELS = {
    "Stable Diffusion 1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "SDXL": "stabilityai/stable-diffusion-xl-base-1.0",
}


def examine() -> dict[str, Any]:
    """Findings in words, in the order in which a person would ask."""
    return {
        "perdure": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries": loading.versions(),
        "device": device(),
        "threads": threads(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB",
        "network": "switched off (HF_HUB_OFFLINE)" if offline() else "allowed",
        "embedded base": outline.available(TOYBOX),
        "embedded transformer": outline.available(TOYFLOW),
        **{f"base {name}": outline.available(hub_id) for name, hub_id in HUB_MODELS.items()},
        "measures": ", ".join(score.names()),
    }


def device() -> str:
    """The device that lessons would run on, in words."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB ({torch.cuda.device_count()} in all)"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"


def threads() -> str:
    """How many threads a process has on the CPU, who said so, and how they wait, in words."""
    count, told = torch.get_num_threads(), loading.threads_told()
    own = "as OMP_NUM_THREADS says" if told else "1 with the embedded base (OMP_NUM_THREADS changes that)"
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    waiting = "give the core away" if policy.upper() == "PASSIVE" else "hold the core, which is slow on a busy machine"
    return f"{count} on {cores()} cores, {own}; while they wait they {waiting} (OMP_WAIT_POLICY={policy})"
