"""Perdure: continual personalisation of text-to-image diffusion models, studied and measured."""

import os

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read where torch is loaded: threads that wait leave the core
