"""The stores of secrets as tests have them: each provider with a place of its own, and a way to look at it."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import pytest
from azure.identity import EnvironmentCredential
from azure.keyvault.secrets import SecretClient

from plugins.module_utils import secret_store as base
from testing.cloud import Cloud
from tests.project import PROJECT

# Where Ansible puts it when it packs a module; the providers' modules import it from there.
sys.modules["ansible.module_utils.secret_store"] = base

PROVIDERS = sorted(
    path.stem.removeprefix("secret_store_") for path in (PROJECT / "plugins" / "modules").glob("secret_store_*.py")
)
VAULT = "mlflow-test"
# What the SDK reads for each new session anew takes it longer than a test does.
LOADER = functools.cache(botocore.loaders.create_loader)
NAMES = {"admin": {}, "database_login": {"length": 20, "prefix": "mlflow_a:"}}


class CutOff(BaseException):
    """A run ends here, as if it were killed."""


class Backend(ABC):
    """A provider with an empty place of its own.

    Args:
        patch: Undoes at the end of the test what is changed for it.
    """

    provider: str
    # What the provider writes with; a run can be cut off before each of these.
    writers: tuple[tuple[Any, str], ...]
    options: dict[str, Any]

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Load the provider's module."""
        self.patch = patch
        self.module = importlib.import_module(f"plugins.modules.secret_store_{self.provider}")
        self.store = next(
            value for value in vars(self.module).values() if isinstance(value, type) and issubclass(value, base.Store)
        )

    def run(self, operation: str, names: dict[str, Any] | None = None, **request: Any) -> dict[str, Any]:
        """Do an operation, for this process unless another is named."""
        given = {"process": os.getpid(), **request}
        return base.run(self.store, operation, self.options, base.Request(names=names or {}, **given))

    def done(self, operation: str, names: dict[str, Any] | None = None, **request: Any) -> dict[str, Any]:
        """Do an operation that meets no problem."""
        result = self.run(operation, names, **request)
        assert result["problems"] == []
        return result

    def secret(self, name: str = "admin") -> dict[str, Any]:
        """Return the stages of a secret."""
        found: dict[str, Any] = self.done("read", {name: {}}, history=True)["secrets"][name]
        return found

    def cut_off(self, count: int) -> None:
        """Cut off a run before its write of that number."""
        left = [count]

        def cutting(writer: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any, **keywords: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    raise CutOff
                return writer(*arguments, **keywords)

            return write

        for owner, name in self.writers:
            self.patch.setattr(owner, name, cutting(getattr(owner, name)))

    @abstractmethod
    def bring(self, name: str, value: str) -> None:
        """Put a secret there as somebody would by hand."""

    @abstractmethod
    def written(self) -> object:
        """Return something that is another after each change of the place."""


class Generated(Backend):
    """A directory."""

    provider = "generated"
    writers = ((Path, "hardlink_to"), (Path, "replace"), (Path, "unlink"))

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        """Name a directory that does not exist yet."""
        super().__init__(patch)
        self.directory = directory / "secrets"
        self.options = {"directory": str(self.directory)}

    def bring(self, name: str, value: str) -> None:
        """Write a file."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        (self.directory / name).touch(mode=0o600)
        (self.directory / name).write_text(value)

    def written(self) -> object:
        """Return all files with their content and times."""
        return {path: (path.read_text(), path.stat().st_mtime_ns) for path in sorted(self.directory.glob("*"))} | {
            "directory": self.directory.exists()
        }


class InCloud(Backend):
    """A place in the cloud for tests."""

    service: str
    writes: tuple[str, ...]

    def __init__(self, patch: pytest.MonkeyPatch, cloud: Cloud) -> None:
        """Point the SDKs to the cloud, and nowhere else."""
        super().__init__(patch)
        self.cloud = cloud
        cloud.heal()
        patch.setattr("botocore.session.create_loader", LOADER)
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
            patch.delenv(name)
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/nonexistent")

    def written(self) -> object:
        """Return the calls that changed something."""
        return [call for call in self.cloud.calls(self.service) if call["operation"].endswith(self.writes)]


class Ssm(InCloud):
    """A path in Parameter Store."""

    provider = "aws_ssm"
    service = "ssm"
    writes = ("PutParameter", "LabelParameterVersion")

    def __init__(self, patch: pytest.MonkeyPatch, cloud: Cloud) -> None:
        """Name a path that is empty."""
        super().__init__(patch, cloud)
        self.options = {"path": f"/mlflow/{uuid.uuid4()}"}
        self.writers = ((self.store, "_put"), (self.store, "_label"))

    def client(self) -> Any:
        """Return a client as one has it at hand."""
        return boto3.client("ssm")

    def bring(self, name: str, value: str) -> None:
        """Put a parameter."""
        path = f"{self.options['path']}/{name}"
        self.client().put_parameter(Name=path, Value=value, Type="SecureString", Overwrite=True)


class KeyVault(InCloud):
    """A prefix in a vault."""

    provider = "azure_key_vault"
    service = "keyvault"
    writes = ("setSecret/action", "update/action")

    def __init__(self, patch: pytest.MonkeyPatch, cloud: Cloud) -> None:
        """Name a prefix that nothing has, and wait for nobody else."""
        super().__init__(patch, cloud)
        patch.setattr(self.module, "SETTLE_SECONDS", 0)
        self.options = {"vault_url": f"https://{VAULT}.vault.azure.net", "prefix": f"t{uuid.uuid4()}-"}
        self.writers = ((self.store, "_set"), (self.store, "_update"))

    def client(self) -> SecretClient:
        """Return a client as one has it at hand."""
        return SecretClient(self.options["vault_url"], EnvironmentCredential())

    def name(self, name: str) -> str:
        """Return what the vault calls a secret."""
        return f"{self.options['prefix']}{name.replace('_', '-')}"

    def bring(self, name: str, value: str) -> None:
        """Set a secret."""
        self.client().set_secret(self.name(name), value)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud for all tests of this process."""
    with Cloud.start(tmp_path_factory.mktemp("cloud"), "--vault", VAULT) as running:
        yield running


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generated:
    """An empty directory."""
    return Generated(monkeypatch, tmp_path)


@pytest.fixture
def aws_ssm(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> Ssm:
    """An empty path in Parameter Store."""
    return Ssm(monkeypatch, cloud)


@pytest.fixture
def azure_key_vault(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> KeyVault:
    """An empty prefix in a vault."""
    return KeyVault(monkeypatch, cloud)


def to_params(providers: Iterable[str]) -> list[Any]:
    """Return providers as parameters of tests. Those of clouds need an emulated one."""
    return [pytest.param(name, marks=[] if name == "generated" else [pytest.mark.system]) for name in providers]


@pytest.fixture(params=to_params(PROVIDERS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each provider that there is; one without a fixture of its name is an error."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Backend)
    return found


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """Processes that live as long as the test, to hold locks."""
    running = [subprocess.Popen(["sleep", "600"]) for _ in range(4)]
    yield [process.pid for process in running]
    for process in running:
        process.kill()
        process.wait()
