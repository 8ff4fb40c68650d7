"""The recipe of the embedded base: data, tokenizer, autoencoder, UNet, scorers, export, evaluation.

Every stage is a function of (recipe, work directory); it checkpoints as it goes and resumes where it stopped.
"""
