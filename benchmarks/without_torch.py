"""Stands in for torch and transformers where nothing computes: importing them takes seconds of a core, each time.

For processes with the engine that sleeps only (sleeping.py). Every name these libraries might have is there, and can be
called, subclassed or used as a decorator; none of it does anything.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

STOOD_IN_FOR = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "jinja2", "pandas")


class _Meta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing

    def __or__(cls, _other: Any) -> Any:
        return Nothing

    def __ror__(cls, _other: Any) -> Any:
        return Nothing


class Nothing(metaclass=_Meta):
    """Any class, function or value of such a library."""

    def __new__(cls, *args: Any, **_more: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) else super().__new__(cls)

    def __init__(self, *_args: Any, **_more: Any) -> None:
        pass

    def __call__(self, *args: Any, **_more: Any) -> Any:
        return args[0] if args else self

    def __class_getitem__(cls, _item: Any) -> Any:
        return cls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class _Module(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - a package, so that its parts are asked for here too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda: 1) if name == "get_num_threads" else Nothing


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, _path: Any, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".", maxsplit=1)[0] not in STOOD_IN_FOR:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install() -> None:
    """Stand in for them in this process from now on."""
    sys.meta_path.insert(0, _Finder())
