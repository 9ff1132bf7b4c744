"""Parameter dicts: in files, and what they tell of a net.

Reading and writing files, and names that stand for them; which net the entries are; its size and
other facts, found without values; batch normalisation folded away and restored.
"""
