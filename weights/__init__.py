"""Parameter dicts in files, and facts about them.

Reading and writing safely; which net a dict is; batch normalisation folded away and restored;
number of classes, multiply-adds.
"""
