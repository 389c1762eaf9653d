"""A module changed as soon as it is made, in whole services: for processes that have a folder `startup` on PYTHONPATH.

The `sitecustomize.py` there is imported when a Python process starts, before anything of the product is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

Change = Callable[[ModuleType], None]


def environment(startup: Path) -> dict[str, str]:
    """Return what a service's environment needs to begin with this folder's sitecustomize, which imports from here."""
    return {"PYTHONPATH": os.pathsep.join([str(startup), str(Path(__file__).parents[1])])}


class _After(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets a module be made as always, then changes it."""

    def __init__(self, name: str, change: Change) -> None:
        self.name, self.change = name, change

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        assert found is not None
        self.real = found.loader
        return importlib.util.spec_from_loader(name, self, origin=found.origin)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self.real is not None
        self.real.exec_module(module)
        self.change(module)


def change_after_import(name: str, change: Change) -> None:
    """Have a module changed in this process when it is imported for the first time."""
    sys.meta_path.insert(0, _After(name, change))
