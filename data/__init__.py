"""From data sets to batches on the device.

CIFAR and drawn shapes, held in memory; image files in class folders, official layouts or lists, and
their downloads; crops and augmentation; a cache of smaller copies.
"""
