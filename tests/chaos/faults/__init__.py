"""The faults, by name. Each is a function that breaks something of a side, yields, and mends it.

What only warmpath has (sidecar, table) is broken there, and plain Envoy is left as it is.
"""

from . import gateway, pods, sidecar, table, traffic  # noqa: F401 - they register what they have
from .fault import FAULTS, Fault

__all__ = ["FAULTS", "Fault"]
