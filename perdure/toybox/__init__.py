"""The toybox: a procedural world of drawings and the tiny diffusion model pretrained on it."""
