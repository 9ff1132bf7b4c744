"""The commands of the tables' runs, and the folders that the runs are in.

A table with a short schedule is called TABLE-Nepochs, and so is the folder of its runs.
"""
import pathlib
import re
import shlex

from papers import catalogue
from utils import InputError

SHORT_SEEDS = 3     # at most, with a short schedule


# ---- the tables ---------------------------------------------------------------------------------

def split(name):
    """Split a name into table and epochs: 'cifar10-10epochs' -> 'cifar10', 10; 'cifar10' ->
    'cifar10', None. Raises InputError if there is no such table."""
    table, epochs = re.fullmatch(r'(.+?)(?:-([1-9]\d*)epochs)?', name, re.S).groups()
    if table not in catalogue.TABLES:
        raise InputError(f'there is no table {name}; name one of {", ".join(catalogue.TABLES)}')
    return table, epochs and int(epochs)


def table_of(name):
    """Return a table as data (see `rows.table`), whatever the schedule in its name."""
    return catalogue.TABLES[split(name)[0]]


def rows_of(name):
    """Return the rows of a table, {name: row}."""
    return table_of(name)['rows']


def owner(name, row):
    """Return the table that a row's runs belong to and the row's name there:
    'cifar10-maps-10epochs', 'cifar10/at' -> 'cifar10-10epochs', 'at'."""
    table, _, row = row.rpartition('/')
    return (table + name.removeprefix(split(name)[0]) if table else name), row


# ---- the commands -------------------------------------------------------------------------------

def folder_of(name, row, seed, root):
    """Return the folder of a run."""
    return str(pathlib.Path(root, *owner(name, row), f'seed{seed}'))


def flags_of(words):
    """Parse a command line into {flag: [value, ...]}; the last values of a repeated flag count."""
    found = {}
    for word in words:
        if word.startswith('--'):
            values = found[word] = []
        elif found:
            values.append(word)
    return found


def command(name, row, seed, root):
    """Make the command line of a run, as a list of words."""
    save = folder_of(name, row, seed, root)
    name, row = owner(name, row)
    epochs, table = split(name)[1], table_of(name)
    own, common = (flags_of(shlex.split(s)) for s in (table['rows'][row]['options'],
                                                      table['common']))
    short = {'--epochs': [str(epochs)], '--epoch_step': ['[0.3,0.6,0.8]']} if epochs else {}
    flags = {**own, **common, **own, **short}       # a row's own come first, and win
    words = [word for flag, values in flags.items() for word in (flag, *values)]
    return [table['script'], '--save', save,
            *(folder_of(name, word[1:], seed, root) if word.startswith('@') else word
              for word in words), '--seed', str(seed)]


def with_teachers(name, row):
    """Yield (table, row) of each row that a row depends on, teachers first, and then its own."""
    name, row = owner(name, row)
    for teacher in re.findall(r'@(\S+)', rows_of(name)[row]['options']):
        yield from with_teachers(name, teacher)
    yield name, row


def check_row(name, only):
    """Raise an InputError, if the table has no row `only`; '' is none in particular."""
    if only and only not in rows_of(name):
        raise InputError(f'{name} has no row {only}; its rows are {", ".join(rows_of(name))}')


def commands(name, root, seeds=None, only=''):
    """Yield the command line of each run of a table, or of one row and its teachers, as a list of
    words: seed by seed, teachers first. InputError as of `check_row`."""
    check_row(name, only)
    rows, short = rows_of(name), split(name)[1]
    numbers = {k: seeds or min(r['seeds'], SHORT_SEEDS if short else r['seeds'])
               for k, r in rows.items() if only in ('', k)}
    runs = ((place, seed) for seed in range(max(numbers.values()))
            for wanted, n in numbers.items() if seed < n for place in with_teachers(name, wanted))
    for place, seed in dict.fromkeys(runs):
        yield command(*place, seed, root)


def save_of(words):
    """Return the folder of a command's run."""
    return words[words.index('--save') + 1]
