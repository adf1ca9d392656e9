"""Prints the versions of packages; fails where one is not here."""
import importlib.metadata
import sys

print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in sys.argv[1:]))
