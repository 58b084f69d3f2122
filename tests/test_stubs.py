"""The stubs of compiled modules declare what the modules have, in the order of the sources. Type checkers accept them."""

import ast
import importlib
import inspect
import pathlib
import re

import pytest

import iptc

PACKAGE = pathlib.Path(__file__).parent.parent / "iptc"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.pyx"))


def decorators(node):
    return {ast.unparse(decorator).rpartition(".")[2] for decorator in getattr(node, "decorator_list", [])}


def stub_names(body):
    """Return {name: node} of a stub's declarations, in their order. A setter belongs to its property."""
    names = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and "setter" not in decorators(node):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = node
    return names


def stub(module):
    return stub_names(ast.parse((PACKAGE / f"{module}.pyi").read_text()).body)


def stub_classes(module):
    return {name: node for name, node in stub(module).items() if isinstance(node, ast.ClassDef)}


def compiled(module):
    return importlib.import_module(f"iptc.{module}")


def public(names):
    return {name for name in names if not name.startswith("_")}


def defined_in(module):
    """Return the public names that *module* defines itself, without those that it imports."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


def source_order(module):
    """Return (class or None, name) of the definitions of a `.pyx`, in their order."""
    order = []
    current = None
    for line in (PACKAGE / f"{module}.pyx").read_text().splitlines():
        if found := re.match(r"(?:cdef )?class (\w+)", line):
            current = found[1]
            order.append((None, current))
        elif found := re.match(r"(?:def|cpdef(?: \w+)?) (\w+)\(", line) or re.match(r"([A-Z][A-Z0-9_]*) = ", line):
            order.append((None, found[1]))
        elif found := re.match(r"    (?:def|cpdef(?: \w+)?) (\w+)\(", line) or re.match(
            r"    (\w+) = property\(", line
        ):
            if (current, found[1]) not in order:
                order.append((current, found[1]))
    return order


def parameters_of(node):
    """Return [(name, whether it has a default)] of a function's parameters in a stub, without self."""
    given = node.args.posonlyargs + node.args.args
    optional = [False] * (len(given) - len(node.args.defaults)) + [True] * len(node.args.defaults)
    return [(arg.arg, default) for arg, default in zip(given, optional) if arg.arg != "self"]


@pytest.mark.parametrize("module", MODULES)
def test_names_are_those_of_the_module(module):
    assert public(stub(module)) == defined_in(compiled(module))


@pytest.mark.parametrize("module", MODULES)
def test_members_are_those_of_the_classes(module):
    for name, node in stub_classes(module).items():
        assert public(stub_names(node.body)) == public(vars(getattr(compiled(module), name))), name


@pytest.mark.parametrize("module", MODULES)
def test_names_for_the_package_itself_exist(module):
    for name, node in stub(module).items():
        assert hasattr(compiled(module), name), name
    for name, node in stub_classes(module).items():
        there = set(dir(getattr(compiled(module), name)))
        assert set(stub_names(node.body)) <= there, name


@pytest.mark.parametrize("module", MODULES)
def test_parameters_are_those_of_the_functions(module):
    checked = 0
    for owner, names in [
        (None, stub(module)),
        *((name, stub_names(node.body)) for name, node in stub_classes(module).items()),
    ]:
        container = compiled(module) if owner is None else getattr(compiled(module), owner)
        for name, node in names.items():
            if not isinstance(node, ast.FunctionDef) or decorators(node) or name.startswith("__"):
                continue
            signature = inspect.signature(
                inspect.getattr_static(container, name) if owner else getattr(container, name)
            )
            real = [
                (parameter.name, parameter.default is not parameter.empty)
                for parameter in signature.parameters.values()
                if parameter.name != "self"
            ]
            assert parameters_of(node) == real, f"{owner}.{name}" if owner else name
            checked += 1
    assert checked or not any(isinstance(node, ast.FunctionDef) for node in stub(module).values())


@pytest.mark.parametrize("module", MODULES)
def test_properties_can_be_set_where_the_stub_says_so(module):
    for name, node in stub_classes(module).items():
        setters = {
            item.name for item in node.body if isinstance(item, ast.FunctionDef) and "setter" in decorators(item)
        }
        readers = {
            item.name for item in node.body if isinstance(item, ast.FunctionDef) and "property" in decorators(item)
        }
        for property_name in readers:
            descriptor = inspect.getattr_static(getattr(compiled(module), name), property_name)
            if isinstance(descriptor, property):
                assert (descriptor.fset is not None) == (property_name in setters), f"{name}.{property_name}"
            else:
                assert inspect.isdatadescriptor(descriptor), f"{name}.{property_name}"


@pytest.mark.parametrize("module", MODULES)
def test_order_is_that_of_the_source(module):
    order = source_order(module)
    listed = []
    for name, node in stub(module).items():
        listed.append((None, name))
        if isinstance(node, ast.ClassDef):
            listed += [(name, member) for member in stub_names(node.body)]
    # declared attributes stand in the .pxd or among the fields of a class
    listed = [item for item in listed if item in order]
    assert listed == [item for item in order if item in listed]


@pytest.mark.parametrize("module", MODULES)
def test_everything_is_annotated(module):
    def functions(body):
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from functions(node.body)
            elif isinstance(node, ast.FunctionDef):
                yield node

    for node in functions(ast.parse((PACKAGE / f"{module}.pyi").read_text()).body):
        assert node.returns is not None, node.name
        assert all(arg.annotation for arg in node.args.posonlyargs + node.args.args if arg.arg != "self"), node.name


def test_public_names_are_exported():
    """With an empty `__all__` a type checker exports nothing but what `__init__.pyi` imports by its own name."""
    exported = [
        alias
        for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert all(alias.asname == alias.name for alias in exported)
    names = {alias.name for alias in exported}
    assert names == {name for name in dir(iptc) if not name.startswith("_")}


def test_type_checkers_are_told():
    assert (PACKAGE / "py.typed").exists()
