"""The modules that prepare stores for artifacts, as tests load them."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from plugins.module_utils import artifact_store as base


def load_module(provider: str) -> Any:
    """Return the module of a provider."""
    # Where Ansible puts it when it packs a module, which imports it from there.
    sys.modules["ansible.module_utils.artifact_store"] = base
    return importlib.import_module(f"plugins.modules.artifact_store_{provider}")
