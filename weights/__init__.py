"""Parameter dicts in files, and facts about them.

Reading and writing safely; batch normalisation folded away and given back; classes, multiply-adds.
"""
