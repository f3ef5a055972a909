"""Azurite, Microsoft's emulator of Azure Blob Storage: installed from npm, run beside the cloud.

The version and the hashes of all its parts are in molecule/shared/azurite/. It wants Node 22 by its own account, and
was seen to do all that the tests ask of it with Debian 12's Node 18 and with Node 20 as well.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import trustme

from testing.cloud.forward import Emulator

SHARED = Path(__file__).resolve().parents[2]
SOURCE = SHARED / "azurite"
CACHE = SHARED.parents[1] / ".cache" / "azurite"
START_SECONDS = 60
# Ends with the process that holds the other end of its input, whatever becomes of that.
RUN = "process.stdin.resume().on('end', () => process.exit(0)); require(process.argv[1]);"


def install() -> Path:
    """Install it, unless it is installed already.

    Returns:
        What Node runs.

    Raises:
        RuntimeError: It cannot be installed; the message says why.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = (SOURCE / "package-lock.json").read_bytes()
    installed = CACHE / ".installed"
    with (CACHE / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_bytes() != lock:
            if shutil.which("npm") is None:
                raise RuntimeError("Azurite needs npm, which is not installed: apt-get install nodejs npm")
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, CACHE)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"Azurite cannot be installed from npm: {done.stderr[-2000:]}")
            installed.write_bytes(lock)
    return CACHE / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


class Azurite:
    """One that is started when it is first asked for something.

    Args:
        accounts: Keys by name of the account, in base64.
        directory: Where it keeps what is stored.
    """

    def __init__(self, accounts: dict[str, str], directory: Path) -> None:
        """Prepare for the start."""
        self._accounts = accounts
        self._directory = directory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._emulator: Emulator | None = None

    @property
    def running(self) -> Emulator | None:
        """The emulator, if anybody has asked for it."""
        return self._emulator

    def start(self) -> Emulator:
        """Return the emulator, started if need be.

        Raises:
            RuntimeError: It cannot be installed or started.
        """
        with self._lock:
            if self._emulator is None:
                self._emulator = self._start()
            return self._emulator

    def stop(self) -> None:
        """End it."""
        with self._lock:
            if self._process:
                self._process.kill()
                self._process.wait()

    def _start(self) -> Emulator:
        script = install()
        self._directory.mkdir()
        # Bearer tokens are taken over TLS only.
        ca = trustme.CA()
        certificate = ca.issue_cert("localhost")
        key, chain = self._directory / "key.pem", self._directory / "cert.pem"
        certificate.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(chain), append=True)
        command = ["node", "-e", RUN, str(script), "--location", str(self._directory), "--blobPort", "0", "--silent"]
        command += ["--skipApiVersionCheck", "--disableTelemetry", "--blobKeepAliveTimeout", "3600"]
        command += ["--oauth", "basic", "--cert", str(chain), "--key", str(key)]
        accounts = ";".join(f"{name}:{secret}" for name, secret in self._accounts.items())
        environment = os.environ | {"AZURITE_ACCOUNTS": accounts}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=sys.stderr, text=True
        )
        port = self._port()
        tls = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        ca.configure_trust(tls)
        return Emulator(port, tls)

    def _port(self) -> int:
        assert self._process and self._process.stdout
        output = self._process.stdout
        watch = threading.Timer(START_SECONDS, self._process.kill)
        watch.start()
        said = []
        for line in output:
            said.append(line)
            if "successfully listens on" in line:
                watch.cancel()
                # What it says later nobody needs, but it must be able to say it.
                threading.Thread(target=lambda: [None for _ in output], daemon=True).start()
                return int(line.rstrip().rpartition(":")[2])
        raise RuntimeError(f"Azurite did not start: {''.join(said)}")


if __name__ == "__main__":
    print(install())
