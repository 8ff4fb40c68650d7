"""Perdure: continual personalisation of text-to-image diffusion models, studied and measured."""

__version__ = "0.1.0"
