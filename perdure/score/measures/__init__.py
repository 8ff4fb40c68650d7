"""Measures of pictures, one file each; its name is the measure's name."""
