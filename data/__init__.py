"""From data sets (CIFAR, drawn shapes, class folders, official lists) to batches on the device."""
