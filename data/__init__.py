"""From data sets to batches.

CIFAR, drawn shapes, class folders, the official lists of fine-tuning's data sets; images that lie
on the device, images that are decoded for each batch.
"""
