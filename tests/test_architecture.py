"""The rules of the source code, read from it: which room imports which, no circles, and no long module or function."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import diffcse

SOURCE = Path(diffcse.__file__).parent
GROUND = {"errors", "figures", "files", "machine", "network", "record", "stops", "streams", "values"}
"""What every room may import."""
SETTINGS = GROUND | {"config"}
DATA = SETTINGS | {"text"}
ENCODER = DATA | {"method", "encoder"}
TRAINING = ENCODER | {"evaluation", "searching", "training"}

RULE = {
    "errors": set(),
    "files": {"errors"},
    "figures": set(),
    "machine": {"errors"},
    "record": {"errors", "files", "machine", "values"},
    "network": {"errors"},
    "stops": set(),
    "streams": set(),
    "values": {"errors"},
    "config": GROUND,
    "text": SETTINGS,
    "method": SETTINGS,
    "report": SETTINGS,
    "encoder": DATA | {"method"},
    "evaluation": ENCODER,
    "searching": ENCODER,
    "grouping": ENCODER,
    "training": ENCODER | {"evaluation", "searching"},
    "pretraining": TRAINING,
    "integrations": TRAINING,
    "tables": TRAINING | {"report"},
}
ABOVE_ALL = {"api", "cli", "quickstart", "terminal", "__main__", "__init__"}
"""Where everything meets; no room may import one of these."""


def imported(source, module, *, package=False):
    """Names of our modules that the source of `module` imports anywhere: at its top, in a function, for types only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            level = node.level - package
            base = parts[: len(parts) - level] if node.level else []
            base += node.module.split(".") if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return {name for name in found if name.split(".")[0] == "diffcse"}


def modules():
    """name -> file of every module of the package."""
    found = {}
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def graph(sources):
    """module -> our modules it imports; `from diffcse.a import b` imports a.b if that is a module, else a."""
    edges = {}
    for module, (source, package) in sources.items():
        edges[module] = set()
        for name in imported(source, module, package=package):
            while name not in sources and "." in name:
                name = name.rpartition(".")[0]
            edges[module].add(name)
    return edges


def the_graph():
    return graph(
        {name: (file.read_text(encoding="utf-8"), file.name == "__init__.py") for name, file in MODULES.items()}
    )


def broken(edges):
    """Imports against the rule."""
    return [
        f"{module} imports {name}"
        for module, names in edges.items()
        for name in names
        if room(module) not in ABOVE_ALL
        and room(name) != room(module)
        and room(name) not in RULE.get(room(module), set())
    ]


def test_every_room_is_in_the_plan():
    assert {"diffcse", "diffcse.config", "diffcse.method.paper"} <= set(MODULES)
    unknown = {room(module) for module in MODULES} - set(RULE) - ABOVE_ALL
    assert not unknown, f"say in RULE what {unknown} may import"


def test_rooms_import_only_what_they_may():
    assert broken(the_graph()) == []


FAST = "diffcse.method.fast"
"""Its modules are private: other modules import names from the package itself."""


def into_fast(edges):
    """Imports of a module of `FAST` from outside it."""
    return [
        f"{module} imports {name}"
        for module, names in edges.items()
        for name in names
        if name.startswith(f"{FAST}.") and module != FAST and not module.startswith(f"{FAST}.")
    ]


def test_fast_is_imported_as_a_package():
    assert f"{FAST}.layout" in MODULES
    assert into_fast(the_graph()) == []


@pytest.mark.parametrize(
    "line", [f"from {FAST}.layout import Layout", f"from {FAST} import layout", "from .fast.layout import Layout"]
)
def test_an_import_into_fast_would_be_seen(line):
    modules = {"diffcse.method": ("", True), FAST: ("", True), f"{FAST}.layout": ("", False)}
    assert len(into_fast(graph(modules | {"diffcse.method.heads": (line, False)}))) == 1
    assert into_fast(graph(modules | {f"{FAST}.running": (f"from {FAST}.layout import Layout", False)})) == []


def test_no_circles():
    edges = the_graph()
    assert sum(map(len, edges.values())) > 40
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError and names the circle


def test_the_rule_itself_is_no_circle():
    graphlib.TopologicalSorter(RULE).prepare()


@pytest.mark.parametrize(
    "line",
    [
        "import diffcse.training.run",
        "from diffcse.training import train",
        "from diffcse.training.run import run",
        "from ..training.train import run",
        "from .. import training",
        "def f():\n    from diffcse.training.run import run",
        "if TYPE_CHECKING:\n    import diffcse.training.run as t",
        "try:\n    from diffcse import training\nexcept ImportError:\n    pass",
        "from diffcse import cli",
    ],
)
def test_a_breach_would_be_seen(line):
    sources = {
        "diffcse.method.heads": (line, False),
        "diffcse.training": ("", True),
        "diffcse.training.run": ("", False),
        "diffcse.cli": ("", False),
    }
    assert len(broken(graph(sources))) == 1


def test_a_circle_would_be_seen():
    edges = graph({"diffcse.a": ("from diffcse.b import x", False), "diffcse.b": ("from . import a", False)})
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(edges).prepare()


def test_an_import_within_a_package_is_read_rightly():
    assert imported("from . import b\nfrom .c import d", "diffcse.a", package=True) == {"diffcse.a.b", "diffcse.a.c.d"}
    assert imported("from . import b\nfrom .c import d", "diffcse.a.x") == {"diffcse.a.b", "diffcse.a.c.d"}
    assert imported("import numpy, diffcse_other\nfrom os import path", "diffcse.a") == set()


LIGHT = ["diffcse", "diffcse.config", "diffcse.files", "diffcse.record", "diffcse.cli", "diffcse.report.quickstart"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_stay_light(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'transformers', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# Lengths

MODULE_LINES, FUNCTION_LINES = 450, 60

LONG_MODULES = []
"""Modules that are still too long. The list may only shrink: delete an entry when its module is short enough."""

LONG_FUNCTIONS: dict[str, list[str]] = {}
"""Room -> functions that are still too long. The lists may only shrink."""


def long_functions(source):
    """Qualified names of the functions and methods in `source` that are over FUNCTION_LINES lines."""

    def within(node, prefix):
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            name = f"{prefix}{child.name}" if is_function or isinstance(child, ast.ClassDef) else prefix
            if is_function and child.end_lineno - child.lineno + 1 > FUNCTION_LINES:
                yield name
            yield from within(child, f"{name}." if name != prefix else prefix)

    return set(within(ast.parse(source), ""))


def test_no_module_is_too_long():
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    too_long = {name.removeprefix("diffcse.") for name, count in lines.items() if count > MODULE_LINES}
    assert too_long - set(LONG_MODULES) == set(), f"over {MODULE_LINES} lines: divide them"
    assert set(LONG_MODULES) - too_long == set(), "short enough now: delete them from LONG_MODULES"


def test_the_paper_fits_on_two_pages():
    assert len(MODULES["diffcse.method.paper"].read_text(encoding="utf-8").splitlines()) <= 150


def test_no_function_is_too_long():
    too_long = {}
    for name, file in MODULES.items():
        too_long.setdefault(room(name), set()).update(long_functions(file.read_text(encoding="utf-8")))
    for name in too_long.keys() | LONG_FUNCTIONS:
        listed, present = set(LONG_FUNCTIONS.get(name, [])), too_long.get(name, set())
        assert present - listed == set(), f"{name}: over {FUNCTION_LINES} lines: divide them"
        assert listed - present == set(), f"{name}: short enough now: delete them from LONG_FUNCTIONS"


def test_a_long_function_would_be_seen():
    body = "        x = 1\n" * FUNCTION_LINES
    source = f"class A:\n    def long(self):\n{body}\n    def short(self):\n{body.partition(chr(10))[2]}"
    assert long_functions(source) == {"A.long"}
