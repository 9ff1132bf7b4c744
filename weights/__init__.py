"""Parameter dicts: in files, which net they are, batch normalisation folded away and restored."""
