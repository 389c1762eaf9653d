"""With this folder on PYTHONPATH every Python process has the engine that sleeps: whole services without a model."""

from benchmarks.sleeping import install

install()
