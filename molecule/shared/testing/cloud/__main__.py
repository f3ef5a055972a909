"""Runs the cloud: makes its certificates, tells clients how to reach it, and ends when it is told to."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import ssl
import tempfile
import threading
from pathlib import Path
from socketserver import BaseServer

import trustme
from werkzeug.serving import make_server

from testing.cloud import arm, blob, client, entra, gcs, google, iam, key_vault, parameter_store, s3
from testing.cloud.aws import Account
from testing.cloud.control import Control
from testing.cloud.ledger import Ledger
from testing.cloud.listener import Listener
from testing.cloud.proxy import Gateway, Proxy, Service


class _Services:
    """All services, found by their public names."""

    def __init__(self, vaults: list[str], accounts: list[str], directory: Path) -> None:
        self.entra = entra.Entra()
        self.vaults = key_vault.KeyVault(self.entra, vaults)
        self.blob = blob.Blob(self.entra, accounts, directory / "azurite")
        self.account = Account()
        self.s3 = s3.S3(self.account, directory)
        parameters = parameter_store.ParameterStore(self.account)
        self.google = google.Accounts()
        self._google_key = directory.parent / client.GOOGLE_KEY
        self._hosts: dict[str, Service] = {
            **dict.fromkeys(self.vaults.hosts, self.vaults),
            entra.HOST: self.entra,
            parameter_store.HOST: parameters,
            **dict.fromkeys(iam.IAM_HOSTS, iam.QueryService("iam", self.account)),
            **dict.fromkeys(iam.STS_HOSTS, iam.QueryService("sts", self.account)),
            **dict.fromkeys(s3.HOSTS, self.s3),
            **dict.fromkeys(self.blob.hosts, self.blob),
            arm.HOST: arm.Arm(self.entra, self.blob),
            gcs.HOST: gcs.Gcs(self.google, directory),
            google.TOKEN_HOST: google.TokenEndpoint(self.google),
            **dict.fromkeys((google.IAM_HOST, google.CREDENTIALS_HOST), google.ServiceAccounts(self.google)),
        }

    @property
    def names(self) -> list[str]:
        """All names, but for those of buckets."""
        return list(self._hosts)

    def find(self, host: str) -> Service | None:
        return self._hosts.get(host) or (self.s3 if s3.HOST.fullmatch(host) else None)

    def reset(self) -> None:
        """Empty all of them."""
        for service in {id(service): service for service in self._hosts.values()}.values():
            service.reset()

    @property
    def storage(self) -> dict[str, dict[str, str]]:
        """What a client of each store has in its environment, beside its way there."""
        return {
            "s3": {
                "AWS_ACCESS_KEY_ID": self.account.key_id,
                "AWS_SECRET_ACCESS_KEY": self.account.secret_key,
                "AWS_DEFAULT_REGION": client.REGION,
            },
            "azure_key": {"AZURE_STORAGE_ACCESS_KEY": next(iter(self.blob.keys.values()))},
            "azure_identity": {
                "AZURE_TENANT_ID": self.entra.tenant,
                "AZURE_CLIENT_ID": self.entra.client,
                "AZURE_CLIENT_SECRET": self.entra.client_secret,
            },
            "gcs": {"GOOGLE_APPLICATION_CREDENTIALS": str(self._google_key)},
        }

    def environment(self, proxy: str, ca_file: Path) -> dict[str, str]:
        """Return the variables by which the clients find the services and are known to them."""
        # Plain http too, so that a client that looks for a metadata service finds none, wherever the test runs. Both
        # spellings, because the small one wins where a machine has it.
        proxies = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "localhost,127.0.0.1"}
        return (
            proxies
            | {name.lower(): value for name, value in proxies.items()}
            | {"AWS_CA_BUNDLE": str(ca_file), "REQUESTS_CA_BUNDLE": str(ca_file)}
            | {"AWS_EC2_METADATA_DISABLED": "true"}
            | self.storage["s3"]
            | self.storage["azure_identity"]
            | {"AZURE_SUBSCRIPTION_ID": client.SUBSCRIPTION}
            | self.storage["gcs"]
        )


def _certificate(ca_file: Path) -> ssl.SSLContext:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    aws = (f"*.{client.REGION}.amazonaws.com", *iam.IAM_HOSTS, *iam.STS_HOSTS, *s3.HOSTS, *client.bucket_names("*"))
    names = (*aws, f"*{key_vault.DOMAIN}", f"*{blob.DOMAIN}", entra.HOST, arm.HOST, "*.googleapis.com")
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
    parser.add_argument("--account", action="append", help="name of an Azure storage account (default: mlflowtest)")
    parser.add_argument("--hours", type=float, default=3, help="ends by itself after this long (default: 3)")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="also serve TLS there, for hosts that know the names")
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
    objects = tempfile.TemporaryDirectory(dir=directory)
    services = _Services(options.vault or ["mlflow-test"], options.account or ["mlflowtest"], Path(objects.name))
    ca_file = directory / client.CA
    gateway, tls = Gateway(services.find, ledger), _certificate(ca_file)
    proxy = Proxy(gateway, tls, missing=lambda name: name.endswith((key_vault.DOMAIN, blob.DOMAIN)))
    control = make_server("127.0.0.1", 0, Control(ledger, services.reset), threaded=True)
    servers: list[BaseServer] = [proxy, control]
    if options.listen:
        servers.append(listener := Listener(options.listen, gateway, tls))
        _write(directory / client.LISTENER, listener.address)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()

    environment = services.environment(f"http://127.0.0.1:{proxy.port}", ca_file)
    _write(directory / client.CLIENT, "\n".join(f"{name}={value}" for name, value in environment.items()))
    _write(directory / client.GOOGLE_KEY, services.google.admin_key)
    _write(directory / client.STORAGE, json.dumps(services.storage))
    _write(directory / client.CONTROL, f"http://127.0.0.1:{control.port}")
    _write(directory / client.NAMES, "\n".join(services.names))
    _write(directory / client.PID, str(os.getpid()))
    _write(ready, "")
    signal.sigtimedwait(signals, options.hours * 3600)
    ready.unlink(missing_ok=True)
    services.blob.stop()
    objects.cleanup()


if __name__ == "__main__":
    main()
