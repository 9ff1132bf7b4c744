"""All tables, {name: table}; see `papers.rows`. `tables.py` prints, runs and shows them."""
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
