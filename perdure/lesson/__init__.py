"""One lesson: examples, the model as a method sees it, training."""
