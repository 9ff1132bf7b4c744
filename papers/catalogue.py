"""All tables, by name: the command line of each cell, and the paper's number; see `papers.rows`.

`python tables.py commands|run|show TABLE` works on them.
"""
from papers import (
    amazon10,
    attention_transfer,
    cifar100,
    cifar_weights,
    demo,
    fine_tuning,
    imagenette,
    office31,
    pruning,
    transfer,
)

TABLES = {name: table for module in (demo, attention_transfer, cifar100, cifar_weights, imagenette,
                                     fine_tuning, pruning, office31, amazon10, transfer)
          for name, table in module.TABLES.items()}
