"""A row of a table, as data. The tables are in the modules beside this; `catalogue` joins them.

A table is a dict:
    title, epochs (of the paper's schedule; None: they depend on the data set),
    medians     whether the paper's numbers are medians of five runs,
    common      options of all rows,
    rows        the rows by name, teachers first; TABLE/ROW is that row of another table, under
                another label;
and, where they are not the usual ones:
    script      if it is not cifar.py,
    measure     what is tabulated, in words, and value, its name in a log: if not the test error,
    top5        whether the top-5 error stands beside it,
    against     heading of the differences to rows `plain`, if those are no plain students,
    pruned      whether multiply-adds are tabulated.
Numbers are errors in %, each with its source.
"""
import re


def row(label, paper='', source='', options='', plain='', seeds=5, others=''):
    """A row: the paper's error in % and its source; the options of the script, in which @ROW stands
    for the run of that row with the same seed; the row of the plain student; the number of seeds;
    the errors that others reached, a range or by name."""
    return dict(label=label, paper=paper, source=source, options=options, plain=plain, seeds=seeds,
                others=others)


def choice(label, options, plain=''):
    """A row of a grid of settings: one seed, and no number of a paper's."""
    return row(label, options=options, plain=plain, seeds=1)


def part_of_table(name, label, options, rows):
    """The rows {name: row} as a part of a larger table, such as those of a data set: `name` comes
    before their names, `label` before their labels, `options` before their own."""
    def placed(r):
        own = re.sub(r'@(\S+)', lambda m: f'@{name}_{m[1]}' if m[1] in rows else m[0], r['options'])
        return dict(r, label=f'{label}: {r["label"]}', options=f'{options} {own}',
                    plain=r['plain'] and f'{name}_{r["plain"]}')

    return {f'{name}_{k}': placed(r) for k, r in rows.items()}


def error_of(accuracy):
    """Turn an accuracy into an error, both in % as text: '88.7±0.1' -> '11.3 ± 0.1', '75.61' ->
    '24.39'."""
    value, _, spread = accuracy.partition('±')
    digits = len(value.partition('.')[2])
    return f'{100 - float(value):.{digits}f}' + (f' ± {spread}' if spread else '')
