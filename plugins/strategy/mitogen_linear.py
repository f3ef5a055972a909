"""Strategy plugin: Ansible's own `linear`, with Mitogen keeping one Python on each host instead of one for each task.

A name of this project's, as the place of Mitogen's own plugin depends on where Python packages are.
"""

from __future__ import annotations

import getpass
from typing import Any

from ansible.collections.list import list_collection_dirs
from ansible.plugins.loader import filter_loader, strategy_loader, test_loader

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
    from ansible_mitogen import affinity
    from ansible_mitogen.strategy import StrategyMixin
    from ansible_mitogen.transport_config import PlayContextSpec
except ImportError:
    StrategyModule = Linear
else:
    # Mitogen pins its processes, and all that they start, to single CPUs. With two CPUs, all runs of Ansible and all
    # container hosts of a machine would share one of them.
    affinity.policy = affinity.Policy()

    # Mitogen asks for these in every process that runs a module of a collection; what is imported here, they have.
    for _ in list_collection_dirs():
        pass

    told = PlayContextSpec.remote_user

    def remote_user(spec: PlayContextSpec) -> str | None:
        """Return who Ansible is on a host before it becomes another.

        Ansible becomes no other user where it is that user already. On this machine Mitogen is not told who it is, and
        would ask for a sudo that root needs not have.
        """
        return told(spec) or (getpass.getuser() if spec.transport() == "local" else None)

    PlayContextSpec.remote_user = remote_user

    class StrategyModule(StrategyMixin, Linear):  # type: ignore[misc, no-redef, valid-type]
        """The strategy `linear`, with Mitogen's connections."""

        def run(self, iterator: Any, play_context: Any) -> Any:
            """Run a play. Return the exit status.

            Ansible starts a process for each task and host. The processes inherit the filters and tests that are loaded
            here. Otherwise each process loads all of them again, which takes a tenth of the time of a playbook run.
            """
            for loader in (filter_loader, test_loader):
                list(loader.all())
            return super().run(iterator, play_context)
