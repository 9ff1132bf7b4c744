"""Testing a net from a file: what is printed of it, and logged."""
import pathlib
import time

from engine import runs, step
from system import processes
from system.downloads import sha256_of
from utils import InputError
from weights import facts, folding, store


def among_classes(opt, f, outputs, names):
    """Make the function that computes, of the logits of a net f (so many `outputs`), those of the
    classes `names`, by --classes. InputError, if that does not say which."""
    classes = opt.classes or list(range(outputs))
    if len(classes) != len(names) or not all(
            type(c) is int and classes.count(c) == (0 <= c < outputs) for c in classes):
        raise InputError(f'val/ has {len(names)} classes, {opt.evaluate} {outputs}: name the '
                         f'{len(names)} outputs that they stand for with --classes, each once')

    def among(inputs, params, mode):
        logits, groups = f(inputs, params, mode)
        return logits[:, classes], groups

    return among


def report_test(opt, device, path, f, tested, params, test, classes, size, pixels):
    """Test the net (f, params) of the file `path` and print errors, size and speed, with the logits
    of the function `tested`, which chooses or averages those of f, among `classes`; with --save
    log them too; write the net to --export, if that is given. InputError, if --save holds a run."""
    if opt.save and pathlib.Path(opt.save, 'model.pt7').exists():
        raise InputError(f'{opt.save} holds a run, whose log would be lost; give another --save')
    facts.count_groups(f, params, size, opt.evaluate)
    folded, start = folding.fold(params), time.perf_counter()
    top1, top5 = step.test_errors(
        tested, step.on_device(folded, opt.dtype, device, fixed=True), test, opt.dtype, device)
    taken = time.perf_counter() - start
    count, macs = facts.size_of(f, params, size)
    of_five = f', top-5 error {top5:.2f} %' if classes > 5 else ''
    print(f'{opt.evaluate}: top-1 error {top1:.2f} %{of_five} of {test.n} images; '
          f'{test.n / taken:.0f} images/s on {runs.device_name(device)}, {opt.dtype}; '
          f'{count:,} parameters, {macs:,} multiply-adds; {size}x{size}, {pixels} pixels')
    if processes.is_first() and opt.save:
        around = runs.environment(opt, device)
        found = dict(epoch=0, epochs=0, test_acc=100 - top1, test_acc5=100 - top5,
                     train_time=0., test_time=taken, n_parameters=count, multiply_adds=macs,
                     threads=around['threads'])
        runs.write_log(pathlib.Path(opt.save, 'log.txt'), [
            {**vars(opt), **around, 'sha256': sha256_of(path)}, {**vars(opt), **found}])
    if processes.is_first() and opt.export:
        store.write_params(params, opt.export)
        print(f'wrote {opt.export}')
