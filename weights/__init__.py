"""Parameter dicts in files, and facts about them.

Reading and writing safely; which net they are; batch normalisation folded away and given back;
classes, multiply-adds.
"""
