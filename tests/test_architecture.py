"""Who may import whom, read from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "dualnet").rglob("*.py"), *(ROOT / "shared_fs").rglob("*.py")])
LEGACY = sorted((ROOT / "legacy_caffe").rglob("*.py"))
LEAVES = {"config", "errors", "seeding"}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, in functions too, but not for types only."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {node for block in ast.walk(tree)
                   if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
                   for node in ast.walk(block)}
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[:len(package) - node.level + 1], *filter(None, [node.module])]
                            ) if node.level else node.module
            found |= {f"{base}.{name.name}" for name in node.names} | {base}
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def ours(names: set[str]) -> set[str]:
    """The rooms of dualnet that are entered: "dualnet.methods.dual.net1" -> "methods"."""
    return {name.split(".")[1] for name in names
            if name.startswith("dualnet.") and name.split(".")[1] != "__version__"}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "dualnet").parts[0].removesuffix(".py")


ALLOWED = {
    # room: the rooms below it, besides the leaves; shared_fs where it may be used
    "config": set(), "errors": set(), "seeding": set(),
    "caffe": {"caffe"},
    "layer_calls": set(),
    "deferred": {"layer_calls"},
    "optim": {"layer_calls", "optim"},
    "schedules": set(),
    "losses": set(),
    "devices": set(),
    "data": {"data"},
    "nets": {"nets", "caffe"},
    "cut": set(),
    "cuts": {"cut", "methods", "operations"},
    "widths": {"caffe", "cut", "nets"},
    "optimizer": {"caffe", "optim", "schedules"},
    "evaluate": {"data"},
    "parallel": {"shared_fs"},
    "rendezvous": {"shared_fs"},
    "group_channel": {"shared_fs"},
    "group": {"group_channel", "parallel", "rendezvous", "shared_fs"},
    "precision": set(),
    "supervised": {"data", "evaluate", "nets", "optimizer"},
    "staging": set(),
    "channel": {"shared_fs", "staging"},
    "methods": {"channel", "cut", "data", "deferred", "evaluate", "losses", "methods", "nets",
                "operations", "optim", "optimizer", "parallel", "precision", "schedules",
                "supervised", "widths", "shared_fs"},
    "metrics": set(),
    "stopping": set(),
    "checkpoints": {"shared_fs"},
    "run": {"checkpoints", "metrics", "shared_fs"},
    "variants": {"methods"},
    "panels": set(),
    "statistics": set(),
    "plot": {"panels", "run", "variants"},
    "compare": {"run", "statistics", "variants"},
    "launcher": {"run"},
    "train": {"checkpoints", "methods", "metrics", "stopping", "shared_fs"},
    "ledger": {"shared_fs"},
    "fingerprint": set(),
    "memory": {"cut", "losses", "methods", "nets"},
    "bench": {"bench", "caffe", "cut", "cuts", "data", "feature_file", "fingerprint",
              "from_prototxt", "group", "launcher", "ledger", "machine", "memory", "methods",
              "nets", "operations", "optim", "rendezvous", "run", "session", "shared_fs"},
    "machine": {"devices"},
    "from_prototxt": {"caffe", "nets"},
    "session": {"checkpoints", "cut", "cuts", "data", "evaluate", "from_prototxt", "machine",
                "methods", "run", "stopping", "supervised", "train", "shared_fs"},
    "role_session": {"channel", "cut", "from_prototxt", "group", "machine", "methods", "metrics",
                     "rendezvous", "run", "session", "stopping", "train", "shared_fs"},
    "ranks": {"methods", "stopping", "shared_fs"},
    "resnet_session": {"from_prototxt", "machine", "methods", "parallel", "ranks", "run",
                       "session"},
    "resist_session": {"data", "from_prototxt", "machine", "methods", "parallel", "ranks", "run",
                       "session"},
    "resist_folder": {"methods", "parallel", "ranks", "resist_session", "run", "shared_fs"},
    "pretraining": {"checkpoints", "data", "machine", "methods", "nets", "operations", "run",
                    "session", "supervised", "train", "shared_fs"},
    "feature_file": {"shared_fs"},
    "operations": set(),
    "monolith_costs": {"memory", "methods", "nets", "operations"},
    "monolith_session": {"checkpoints", "data", "feature_file", "machine", "methods", "metrics",
                         "nets", "operations", "pretraining", "run", "session", "train"},
    "boosting": {"run"},
    "diversity": {"run"},
    "export": {"methods", "run"},
    "reproduce": {"caffe", "channel", "cut", "data", "devices", "fingerprint", "launcher", "ledger",
                  "losses", "machine", "memory", "methods", "monolith_costs", "monolith_session",
                  "nets", "operations", "optimizer", "precision", "pretraining", "reproduce", "run",
                  "session", "statistics", "supervised", "train", "shared_fs"},
    "page": {"bench", "compare", "fingerprint", "ledger", "page", "reproduce", "statistics"},
    "cli": {"cli", "bench", "boosting", "compare", "cuts", "data", "diversity", "export",
            "fingerprint", "from_prototxt", "launcher", "ledger", "machine", "methods", "metrics",
            "monolith_costs", "monolith_session", "nets", "panels", "page", "parallel", "plot",
            "pretraining", "rendezvous", "reproduce", "resist_folder", "resist_session",
            "resnet_session", "role_session", "run", "session", "shared_fs", "stopping"},
    "api": {"cli", "data", "export", "methods", "nets", "run", "session"},
    "__init__": set(), "__main__": {"cli"}, "bootstrap": set(),
}


@pytest.mark.parametrize("path", [p for p in FILES if "shared_fs" not in p.parts],
                         ids=module_of)
def test_every_import_points_down(path):
    names = imports(path)
    entered = ours(names) | ({"shared_fs"} if any(n.split(".")[0] == "shared_fs" for n in names)
                             else set())
    above = entered - ALLOWED[room(path)] - LEAVES
    assert not above, f"{module_of(path)} may not import {sorted(above)}"


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(path): path for path in FILES}
    # What hands out names by importing a package's own files is in no order with them.
    below = {name: {found for found in imports(path) & set(modules)
                    if modules[found].name != "__init__.py" and found != name}
             for name, path in modules.items() if path.name != "__init__.py"}
    while below:
        lowest = {name for name, used in below.items() if not used & set(below)}
        assert lowest, f"a circle of imports among {sorted(below)}"
        below = {name: used for name, used in below.items() if name not in lowest}


def test_methods_do_not_know_each_other():
    for path in (ROOT / "dualnet" / "methods").rglob("*.py"):
        own = module_of(path).split(".")[2] if module_of(path).count(".") > 1 else ""
        for name in imports(path):
            if name.startswith("dualnet.methods.") and own:
                assert name.split(".")[2] in {own, "protocol"}, f"{path} imports {name}"


def test_shared_fs_knows_nothing_of_training():
    for path in (ROOT / "shared_fs").rglob("*.py"):
        top = {name.split(".")[0] for name in imports(path)}
        foreign = top - set(sys.stdlib_module_names) - {"numpy", "filelock", "shared_fs"}
        assert not foreign, f"{path} imports {sorted(foreign)}"


def test_legacy_caffe_stands_beside_dualnet():
    for path in LEGACY:
        top = {name.split(".")[0] for name in imports(path)}
        foreign = top - set(sys.stdlib_module_names) - {"numpy", "caffe", "PIL", "shared_fs",
                                                        "legacy_caffe"}
        assert not foreign, f"{path} imports {sorted(foreign)}"


@pytest.mark.parametrize("module", ["dualnet.cli", "dualnet.compare", "dualnet.plot",
                                    "dualnet.run", "dualnet.data", "dualnet.nets",
                                    "dualnet.reproduce.targets", "dualnet.reproduce.report",
                                    "dualnet.methods.dual.settings", "shared_fs"])
def test_importing_does_not_pull_in_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_only_the_command_line_prints_and_reads_arguments():
    for path in FILES:
        if room_of(path) in {"cli", "bootstrap"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
            assert not is_print, f"{path}:{node.lineno} prints"


def room_of(path: Path) -> str:
    return room(path) if "dualnet" in path.relative_to(ROOT).parts else "shared_fs"


def test_functions_and_files_stay_small():
    for path in [*FILES, *LEGACY]:
        text = path.read_text()
        assert text.count("\n") <= 320, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                lines = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                assert lines <= 45, f"{path}:{node.lineno} {node.name} has {lines} lines"
