"""A concept's pictures, from disk to arrays."""
