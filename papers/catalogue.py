"""All tables, {name: table}; see `papers.rows`. `tables.py` prints, runs and shows them."""
from importlib import import_module

MODULES = ('demo', 'attention_transfer', 'cifar100', 'cifar_weights', 'imagenette', 'fine_tuning',
           'pruning', 'office31', 'amazon10', 'transfer')
TABLES = {name: table for module in MODULES
          for name, table in import_module(f'papers.{module}').TABLES.items()}
