"""A run, seen: what calls below a block took, as a file, a text, a picture and a page."""
