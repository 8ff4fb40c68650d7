"""The frozen pretrained pipeline behind one thin wrapper; the only rooms that import diffusers and peft."""
