"""Pictures from a memory, and what a model scores on them."""
