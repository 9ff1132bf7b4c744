"""Predictions of a net: the likeliest classes of images, by name, as lines or csv."""
import csv
import sys

from engine import step
from utils import printable

MOST = 5        # classes of an image that are shown


def likeliest(f, params, images, names, dtype):
    """Yield the likeliest classes of each of `data.arrays.Images`, by a net (f, params) whose
    classes have these `names`: [(name, probability), ...], falling."""
    for inputs, _ in images.batches():
        parts = step.logits_of(f, params, inputs, dtype).double().softmax(1)
        found = parts.topk(min(MOST, len(names)))
        for values, classes in zip(*(v.tolist() for v in found), strict=True):
            yield [(names[k], p) for k, p in zip(classes, values, strict=True)]


def show(answers):
    """Print a line for each (name of an image, what `likeliest` gives for it)."""
    for image, classes in answers:
        print(printable(f'{image}: ' + ', '.join(f'{name} {100 * p:.2f} %'
                                                 for name, p in classes)), flush=True)


def show_csv(answers):
    """Print the same as csv."""
    table = csv.writer(sys.stdout, lineterminator='\n')
    for i, (image, classes) in enumerate(answers):
        if not i:
            table.writerow(['image', *(f'{what} {k + 1}' for k in range(len(classes))
                                       for what in ('class', 'probability'))])
        table.writerow([image, *(v for name, p in classes for v in (name, f'{p:.4f}'))])
