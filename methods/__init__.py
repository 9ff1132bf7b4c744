"""Methods: losses that are added to cross-entropy, and pruning.

Losses from a teacher, from a source, between two domains; learned attention; channels, what they
are worth, gates, and their phases in training. For comparison, the published training step.
"""
