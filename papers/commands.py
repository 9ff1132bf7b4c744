"""The commands of the tables' runs: which rows a table has, in which folder a run lies.

A table in a short schedule is called TABLE-Nepochs, and so is the folder of its runs.
"""
import pathlib
import re
import shlex

from papers import catalogue
from utils import InputError

SHORT_SEEDS = 3     # at most, in a short schedule


# ---- the tables ---------------------------------------------------------------------------------

def split(name):
    """'cifar10-10epochs' -> 'cifar10', 10; 'cifar10' -> 'cifar10', None."""
    table, epochs = re.fullmatch(r'(.+?)(?:-([1-9]\d*)epochs)?', name, re.S).groups()
    if table not in catalogue.TABLES:
        raise InputError(f'there is no table {name}; name one of {", ".join(catalogue.TABLES)}')
    return table, epochs and int(epochs)


def rows_of(name):
    return catalogue.TABLES[split(name)[0]]['rows']


def home(name, row):
    """The table, in the schedule of the table `name`, and the row that `row` stands for there."""
    if '/' not in row:
        return name, row
    table, row = row.split('/')
    epochs = split(name)[1]
    return (f'{table}-{epochs}epochs' if epochs else table), row


def title(name):
    table, epochs = split(name)
    table = catalogue.TABLES[table]
    return table['title'] + (f', in {epochs} epochs instead of {table["epochs"]}' if epochs else '')


# ---- the commands -------------------------------------------------------------------------------

def folder_of(name, row, seed, root):
    return str(pathlib.Path(root, *home(name, row), f'seed{seed}'))


def command(name, row, seed, root):
    """The command line of a run, as a list of words."""
    save = folder_of(name, row, seed, root)
    name, row = home(name, row)
    table, epochs = split(name)
    table = catalogue.TABLES[table]
    short = f"--epochs {epochs} --epoch_step '[0.3,0.6,0.8]'" if epochs else ''
    own = shlex.split(table['rows'][row]['options'])
    options = [*own, *without(shlex.split(table['common']), own), *shlex.split(short)]
    return [table.get('script', 'cifar.py'), '--save', save,
            *(folder_of(name, word[1:], seed, root) if word.startswith('@') else word
              for word in options), '--seed', str(seed)]


def without(words, own):
    """The words of a command line without the flags, and their values, that are in `own`."""
    kept, skip = [], False
    for word in words:
        skip = word in own if word.startswith('--') else skip
        kept += [] if skip else [word]
    return kept


def with_teachers(name, row):
    """A row behind the rows that its options name, as (table, row)."""
    name, row = home(name, row)
    for teacher in re.findall(r'@(\S+)', rows_of(name)[row]['options']):
        yield from with_teachers(name, teacher)
    yield name, row


def commands(name, root, seeds=None, only=''):
    """The command line of each run of a table, or of one row, with the teachers that it needs, as
    lists of words: seed by seed, teachers first."""
    rows, short, known = rows_of(name), split(name)[1], set()
    if only and only not in rows:
        raise InputError(f'{name} has no row {only}; its rows are {", ".join(rows)}')
    numbers = {k: seeds or min(r['seeds'], SHORT_SEEDS if short else r['seeds'])
               for k, r in rows.items() if only in ('', k)}
    for seed in range(max(numbers.values())):
        for wanted in (k for k, n in numbers.items() if seed < n):
            for place in with_teachers(name, wanted):
                if (place, seed) not in known:
                    known.add((place, seed))
                    yield command(*place, seed, root)


def save_of(words):
    return words[words.index('--save') + 1]


def comparable(command):
    """The words of a command line. The first logs of AT+KD are older than --beta_decay: they were
    made with a constant β and do not say so."""
    return shlex.split(command.replace(' --beta_decay constant', ''))
