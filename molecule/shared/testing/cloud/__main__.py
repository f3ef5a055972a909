"""Runs the cloud: makes its certificates, tells clients how to reach it, and ends when it is told to."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import ssl
import tempfile
import threading
from pathlib import Path

import trustme
from werkzeug.serving import make_server

from testing.cloud import client, entra, key_vault, parameter_store
from testing.cloud.control import Control
from testing.cloud.ledger import Ledger
from testing.cloud.proxy import Gateway, Proxy, Service


class _Services:
    """All services, found by their public names."""

    def __init__(self, vaults: list[str]) -> None:
        self.entra = entra.Entra()
        self.vaults = key_vault.KeyVault(self.entra, vaults)
        self.parameters = parameter_store.ParameterStore()

    def find(self, host: str) -> Service | None:
        hosts: dict[str, Service] = dict.fromkeys(self.vaults.hosts, self.vaults)
        return (hosts | {entra.HOST: self.entra, parameter_store.HOST: self.parameters}).get(host)

    def environment(self, proxy: str, ca_file: Path) -> dict[str, str]:
        """Return the variables by which the clients find the services and are known to them."""
        # Plain http too, so that a client that looks for a metadata service finds none, wherever the test runs. Both
        # spellings, because the small one wins where a machine has it.
        proxies = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "localhost,127.0.0.1"}
        return (
            proxies
            | {name.lower(): value for name, value in proxies.items()}
            | {"AWS_CA_BUNDLE": str(ca_file), "REQUESTS_CA_BUNDLE": str(ca_file)}
            | {"AWS_ACCESS_KEY_ID": self.parameters.key_id, "AWS_SECRET_ACCESS_KEY": self.parameters.secret_key}
            | {"AWS_DEFAULT_REGION": parameter_store.REGION, "AWS_EC2_METADATA_DISABLED": "true"}
            | {"AZURE_TENANT_ID": self.entra.tenant, "AZURE_CLIENT_ID": self.entra.client}
            | {"AZURE_CLIENT_SECRET": self.entra.client_secret}
        )


def _certificate(ca_file: Path) -> ssl.SSLContext:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = (f"*.{parameter_store.REGION}.amazonaws.com", f"*{key_vault.DOMAIN}", entra.HOST)
    ca.issue_cert(*names).configure_cert(context)
    return context


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    Path(name).replace(path)


def main() -> None:
    """Run until SIGTERM, or until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m testing.cloud", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where it tells how to reach it")
    parser.add_argument("--vault", action="append", help="name of a Key Vault that exists (default: mlflow-test)")
    parser.add_argument("--hours", type=float, default=3, help="ends by itself after this long (default: 3)")
    options = parser.parse_args()

    # Waited for, not handled: a handler that wakes a waiting thread can meet that thread's lock and never return.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)

    directory = options.directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ready = directory / client.READY
    ready.unlink(missing_ok=True)

    ledger = Ledger()
    services = _Services(options.vault or ["mlflow-test"])
    ca_file = directory / client.CA
    proxy = Proxy(
        Gateway(services.find, ledger), _certificate(ca_file), missing=lambda name: name.endswith(key_vault.DOMAIN)
    )
    stores: tuple[Service, ...] = (services.parameters, services.vaults)
    control = make_server("127.0.0.1", 0, Control(ledger, stores), threaded=True)
    for server in (proxy, control):
        threading.Thread(target=server.serve_forever, daemon=True).start()

    environment = services.environment(f"http://127.0.0.1:{proxy.port}", ca_file)
    _write(directory / client.CLIENT, "\n".join(f"{name}={value}" for name, value in environment.items()))
    _write(directory / client.CONTROL, f"http://127.0.0.1:{control.port}")
    _write(directory / client.PID, str(os.getpid()))
    _write(ready, "")
    signal.sigtimedwait(signals, options.hours * 3600)
    ready.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
