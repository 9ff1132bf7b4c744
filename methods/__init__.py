"""Methods: losses that are added to cross-entropy, and pruning.

Losses from a teacher, from a source, between two domains; learned attention; channels, gates, and
their phases in training.
"""
