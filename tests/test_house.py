"""The order of the house: which file may import which."""
import ast

import pytest
from helpers import ROOT

SCRIPTS = {path.stem for path in ROOT.glob('*.py')} - {'utils'}
PACKAGES = sorted(path.parent for path in ROOT.glob('*/__init__.py'))


def imports(path):
    """The names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('package', PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_lives_in_it_and_imports_no_script(package):
    assert ast.get_docstring(ast.parse((package / '__init__.py').read_text()))
    for path in package.glob('*.py'):
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert not SCRIPTS & set(imports(path)), path


def test_no_module_imports_itself_by_way_of_others():
    files = {f'{p.name}.{f.stem}': f for p in PACKAGES for f in p.glob('*.py')}
    needs = {name: set(imports(path)) & set(files) for name, path in files.items()}
    while needs:
        free = {name for name, others in needs.items() if not others & set(needs)}
        assert free, f'in a circle: {sorted(needs)}'
        needs = {name: others for name, others in needs.items() if name not in free}


# what a package may import of the others: never one that imports it
MAY_IMPORT = {'system': set(), 'data': {'system'}, 'weights': {'system'},
              'engine': {'system', 'weights'}, 'papers': {'system', 'engine'},
              'methods': {'system', 'data', 'weights', 'engine'}}


@pytest.mark.parametrize('package', PACKAGES, ids=lambda path: path.name)
def test_a_package_imports_those_that_it_may(package):
    others = {p.name for p in PACKAGES} - {package.name}
    for path in package.glob('*.py'):
        found = {name.split('.')[0] for name in imports(path)} & others
        assert found <= MAY_IMPORT[package.name], path
