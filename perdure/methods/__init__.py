"""One file per method: each defines METHOD(**options) -> Method. The file's name is the method's name."""
