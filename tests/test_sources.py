"""Rules for our source that no other test sees: walls between packages, safe loading, explicit randomness.

Each rule is a function from a file's text to its violations, and is itself tried on text that breaks it.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nenni_core", "hwsim", "pipeline", "analysis", "benchmarks")


def package_sources() -> dict[str, str]:
    """Path -> text of every Python file of ours that git knows."""
    listing = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {
        n: (ROOT / n).read_text()
        for n in listing.stdout.splitlines()
        if n.endswith(".py") and (ROOT / n).is_file()
    }


SOURCES = package_sources()


def violations(rule: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """The files that break `rule`, each with what breaks it."""
    return {name: found for name, text in SOURCES.items() if (found := rule(text))}


# --- walls between the packages --------------------------------------------------------------------------


def imported_modules(source: str) -> Iterator[tuple[str, bool]]:
    """Every imported module's full name, and whether it is imported as soon as the file is."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, (
                    f"relative import of {child.module!r}: the house style is absolute imports"
                )
                yield from ((f"{child.module}.{alias.name}", at_import) for alias in child.names)
            else:
                later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                    # the program's own entry; `import` does not go there
                    isinstance(child, ast.If) and ast.unparse(child.test) == "__name__ == '__main__'"
                )
                yield from visit(child, at_import and not later)

    yield from visit(ast.parse(source), True)


# The two libraries must be usable on their own. `nenni_core` lists all that it may import, and what of that
# only inside the function that needs it; the others list what is out of bounds for them. `analysis` sees
# results, not models: of `nenni_core` it may use the error type and the intervals.
CORE_IMPORTS = {"nenni_core", "torch", "numpy", "safetensors", "jaxtyping"} | sys.stdlib_module_names
CORE_LAZY_IMPORTS = {"torchattacks", "pyautoattack", "sklearn"}
OUT_OF_BOUNDS = {
    "hwsim": {
        "torch",
        "torchattacks",
        "nenni_core",
        "pipeline",
        "analysis",
        "benchmarks",
        "mlflow",
        "dvc",
        "ray",
    },
    "analysis": {"torch", "torchattacks", "nenni_core", "hwsim", "benchmarks", "dvc", "ray"},
    "pipeline": {"torchattacks", "analysis", "benchmarks"},
    "benchmarks": set[str](),
}
EXCEPTIONS = {"analysis": {"nenni_core.errors", "nenni_core.statistics"}}


def wall_breaks(package: str, source: str) -> list[str]:
    """Imports that `package` may not make."""
    breaks = []
    for module, at_import in imported_modules(source):
        top = module.split(".")[0]
        if package == "nenni_core":
            broken = top not in CORE_IMPORTS and (at_import or top not in CORE_LAZY_IMPORTS)
        else:
            excepted = module.rpartition(".")[0] in EXCEPTIONS.get(package, set())
            broken = top in OUT_OF_BOUNDS[package] and not excepted
        if broken or top == "tests":
            breaks.append(module)
    return breaks


def test_packages_keep_to_their_walls() -> None:
    breaks = {name: wall_breaks(name.split("/")[0], text) for name, text in SOURCES.items()}
    assert {name: found for name, found in breaks.items() if found} == {}


@pytest.mark.parametrize(
    ("package", "source", "expected"),
    [
        ("nenni_core", "import mlflow", ["mlflow"]),
        ("nenni_core", "from pipeline.config import Attack", ["pipeline.config.Attack"]),
        ("nenni_core", "import torchattacks", ["torchattacks"]),
        ("nenni_core", "def attack():\n    import torchattacks", []),
        ("nenni_core", "def attack():\n    if True:\n        import rich", ["rich"]),
        ("hwsim", "try:\n    import torch.nn\nexcept ImportError:\n    pass", ["torch.nn"]),
        ("hwsim", "import numpy, math", []),
        ("analysis", "from nenni_core import inject", ["nenni_core.inject"]),
        ("analysis", "from nenni_core.statistics import wilson_interval", []),
    ],
)
def test_walls_are_seen(package: str, source: str, expected: list[str]) -> None:
    assert wall_breaks(package, source) == expected


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module -> modules of ours that must be there before it, by its imports outside of functions."""
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sources}
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        imported = {target for target, at_import in imported_modules(source) if at_import}
        # `from a.b import c` needs the module a.b.c if that is one, and else a.b.
        graph[module] = {t if t in modules else t.rpartition(".")[0] for t in imported} & modules - {module}
    return graph


def test_imports_form_no_circle() -> None:
    order = list(TopologicalSorter(import_graph(SOURCES)).static_order())
    assert "nenni_core.errors" in order


def test_import_circle_is_seen() -> None:
    later = 'def f():\n    import p.a\nif __name__ == "__main__":\n    import p.a'
    sources = {"p/a.py": "from p.b import f", "p/b.py": later, "p/__init__.py": "from p.a import g"}
    TopologicalSorter(import_graph(sources)).prepare()
    sources["p/b.py"] = "import p.a"
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(sources)).prepare()


# --- what no code of ours does ---------------------------------------------------------------------------

UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LEGACY_NUMPY_SAFE = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox"}
# Draws that take a generator and else use PyTorch's global one; `*_like` and dropout cannot take one.
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
TORCH_NEVER = {"rand_like", "randn_like", "randint_like", "dropout", "dropout2d", "manual_seed", "seed"}
IN_PLACE_DRAWS = {
    "normal_",
    "uniform_",
    "bernoulli_",
    "random_",
    "exponential_",
    "log_normal_",
    "cauchy_",
    "geometric_",
}
INITIALISERS = re.compile(r"(kaiming|xavier)_(normal|uniform)_|trunc_normal_|orthogonal_|sparse_")


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; a leading `?` stands for any other expression."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(source: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Each call's dotted name and keyword arguments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield dotted(node.func), {k.arg: k.value for k in node.keywords if k.arg is not None}


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def unsafe_uses(source: str) -> list[str]:
    """Ways to run code that came with data, or text as a program."""
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and any(dotted(base) in safe_loaders for base in node.bases):
            safe_loaders.add(node.name)
    found = [module for module, _ in imported_modules(source) if module.split(".")[0] in UNSAFE_MODULES]
    for name, keywords in calls(source):
        last = name.rpartition(".")[2]
        if (
            (name == "torch.load" and not is_constant(keywords.get("weights_only"), True))
            or name in {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}
            or (
                name == "yaml.load" and dotted(keywords.get("Loader", ast.Constant(None))) not in safe_loaders
            )
            or ("allow_pickle" in keywords and not is_constant(keywords["allow_pickle"], False))
            or ("shell" in keywords and not is_constant(keywords["shell"], False))
            or last in {"read_pickle", "to_pickle"}
        ):
            found.append(name)
    return found


def global_draws(source: str) -> list[str]:
    """Random numbers that come from a global generator, or a change of its state."""
    found = [module for module, _ in imported_modules(source) if module.split(".")[0] == "random"]
    for name, keywords in calls(source):
        head, _, last = name.rpartition(".")
        if (
            (head in {"np.random", "numpy.random"} and last not in LEGACY_NUMPY_SAFE)
            or (head in {"torch", "F"} and last in TORCH_NEVER)
            or (
                "generator" not in keywords
                and (
                    (head == "torch" and last in TORCH_DRAWS)
                    or (head and last in IN_PLACE_DRAWS)
                    or (head.endswith("init") and INITIALISERS.fullmatch(last))
                )
            )
        ):
            found.append(name)
    return found


# Third-party attacks draw from the global generators: they are seeded around them and restored after.
AROUND_THIRD_PARTY_ATTACKS = {
    "nenni_core/attacks/untouched.py": {
        "random",
        "np.random.get_state",
        "np.random.seed",
        "np.random.set_state",
    },
    "nenni_core/attacks/adapter.py": {"torch.rand_like"},  # called by such an attack, so in the middle of it
}


def test_nothing_runs_what_came_with_data() -> None:
    assert violations(unsafe_uses) == {}


def test_randomness_is_explicit() -> None:
    found = {name: set(draws) for name, draws in violations(global_draws).items()}
    assert {
        n: extra for n, draws in found.items() if (extra := draws - AROUND_THIRD_PARTY_ATTACKS.get(n, set()))
    } == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "class L(yaml.Loader): pass\nyaml.load(text, Loader=L)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "pl.from_pandas(pandas.read_pickle(path))",
    ],
)
def test_unsafe_use_is_seen(source: str) -> None:
    assert len(unsafe_uses(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p, weights_only=True)",
        "yaml.safe_load(t)",
        "yaml.load(t, Loader=yaml.SafeLoader)",
        "class L(yaml.SafeLoader): pass\nyaml.load(t, Loader=L)",
        "model.eval()",
    ],
)
def test_safe_use_passes(source: str) -> None:
    assert unsafe_uses(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "np.random.shuffle(index)",
        "torch.randn(3)",
        "torch.manual_seed(0)",
        "torch.rand_like(x)",
        "F.dropout(x)",
        "delta.uniform_(-eps, eps)",
        "nn.init.kaiming_normal_(weight)",
    ],
)
def test_global_draw_is_seen(source: str) -> None:
    assert len(global_draws(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng(0).shuffle(index)",
        "torch.randn(3, generator=g)",
        "delta.uniform_(-eps, eps, generator=g)",
        "nn.init.kaiming_normal_(weight, generator=g)",
        "nn.init.zeros_(bias)",
    ],
)
def test_explicit_draw_passes(source: str) -> None:
    assert global_draws(source) == []


# --- dependencies ------------------------------------------------------------------------------------


def test_third_party_imports_are_declared() -> None:
    """pyproject.toml names all that our packages import; torchattacks it explains in a comment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    declared = {canonicalize_name(Requirement(text).name) for text in [*project["dependencies"], *extras]}
    imported = {module.split(".")[0] for text in SOURCES.values() for module, _ in imported_modules(text)}
    distribution = {"sklearn": "scikit-learn", "yaml": "pyyaml", "pydantic_core": "pydantic"}
    third_party = {distribution.get(m, m) for m in imported - set(sys.stdlib_module_names) - set(PACKAGES)}
    assert "torch" in third_party
    # scalesim needs an environment of its own: see benchmarks/scale_sim_tool.py
    assert third_party <= declared | {"torchattacks", "pyautoattack", "scalesim"}
