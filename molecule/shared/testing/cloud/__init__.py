"""A cloud for tests: what the project uses of AWS, Azure and Google Cloud, on this machine, at their public names.

Nothing in the clients is patched: they are pointed at it by the environment variables that they know (proxy, CA
bundle, credentials), and verify its certificates. `python -m testing.cloud --directory DIR` runs it in the foreground.
"""

from testing.cloud.client import Cloud

__all__ = ["Cloud"]
