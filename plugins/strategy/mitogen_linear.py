"""Strategy plugin: Ansible's own `linear`, with Mitogen keeping one Python on each host instead of one for each task.

A name of this project's, as the place of Mitogen's own plugin depends on where Python packages are.
"""

from __future__ import annotations

from ansible.collections.list import list_collection_dirs
from ansible.plugins.loader import strategy_loader

DOCUMENTATION = """
    name: mitogen_linear
    short_description: Runs tasks in lockstep, by way of Mitogen where that is installed
    description:
      - Without the Python package C(mitogen) on the control node, it is the strategy C(linear).
      - C(ANSIBLE_STRATEGY=linear) does without Mitogen.
    author: MLflow on VMs contributors
"""

Linear = strategy_loader.get("linear", class_only=True)

try:
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:
    StrategyModule = Linear
else:
    # Mitogen asks for these in every process that runs a module of a collection; what is imported here, they have.
    for _ in list_collection_dirs():
        pass

    class StrategyModule(StrategyMixin, Linear):  # type: ignore[misc, no-redef, valid-type]
        """The strategy `linear`, with Mitogen's connections."""
