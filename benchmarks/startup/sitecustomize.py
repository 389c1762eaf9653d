"""With this folder on PYTHONPATH every Python process has the engine that sleeps: whole services without a model."""

from benchmarks import sleeping, without_torch

without_torch.install()
sleeping.install()
