"""Files for other tools: chosen by the memory's form, read back and compared before they are handed over."""
