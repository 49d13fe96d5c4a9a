"""Runs a small chain where nothing is installed but what a bare PyTorch image has; prints what was imported.

Called with the folder of the data and that of the results.
"""

import importlib
import pkgutil
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

ALLOWED = {"torch", "numpy", "safetensors", "jaxtyping"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: set[str]) -> set[str]:
    """Distributions and all that they require, extras left out."""
    requires = {
        normal(found.metadata["Name"]): {
            normal(re.match(r"[\w.-]+", text)[0]) for text in found.requires or () if "extra ==" not in text
        }
        for found in distributions()
    }
    reached: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        reached.add(name)
        left |= requires.get(name, set()) - reached
    return reached


THERE = closure(ALLOWED)
ABSENT = {
    module
    for module, owners in packages_distributions().items()
    if not {normal(owner) for owner in owners} & THERE
} - {"nenni_core", "benchmarks", "pipeline", "hwsim", "analysis"}


class Bare(PathFinder):
    """Finds no module of a distribution that is not there."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in ABSENT else PathFinder.find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Bare


def main(folder: Path, out: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    torch.set_num_threads(1)
    import nenni_core

    for module in pkgutil.walk_packages(nenni_core.__path__, "nenni_core."):
        importlib.import_module(module.name)
    from small_chain import compute, small_chain, small_source

    import benchmarks.paper_scale
    from benchmarks.chain_plan import INSTALL, chosen_attacks
    from nenni_core import data
    from nenni_core.attacks import AttackSpec
    from nenni_core.errors import InputError

    data.DATASETS["cifar10"] = small_source()
    own = (
        AttackSpec(name="cw_l2", kind="cw", steps=1),
        AttackSpec(name="deepfool", kind="deepfool", steps=1),
    )
    assert {spec.kind for spec in chosen_attacks("own")} == {spec.kind for spec in own}
    refusal = ""
    try:
        chosen_attacks("both")
    except InputError as error:
        refusal = str(error)
    assert refusal.startswith("--attacks both needs torchattacks, which cannot be imported here (No module ")
    assert f"`{INSTALL}`" in refusal
    done = compute(small_chain(*own), folder, out)
    assert benchmarks.paper_scale.line(done[1], 1, {"train": 1, "validation": 1})
    loaded = {name.partition(".")[0] for name in sys.modules}
    print(" ".join(sorted(loaded & ABSENT)) or "nothing else", len(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
