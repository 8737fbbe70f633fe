"""Real MLflow servers on loopback, one process each, stopped when the context ends."""

import base64
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

FERNET_KEY = base64.urlsafe_b64encode(bytes(32)).decode()
"""For webhook secrets: without one each process makes up its own, and secrets cannot be read after a restart."""
SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": FERNET_KEY,
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Server:
    """A server that can be stopped, and started again on the same port and disk."""

    disk: Path
    port: int
    app: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def artefacts(self) -> Path:
        """Where the server keeps the files of runs and models."""
        return self.disk / "artifacts"

    @property
    def log(self) -> str:
        return (self.disk / "server.log").read_text(errors="replace")

    def start(self) -> None:
        stores = ["--backend-store-uri", f"sqlite:///{self.disk}/server.db"]
        stores += ["--artifacts-destination", str(self.artefacts)]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        app = ["--app-name", self.app] if self.app else []
        with (self.disk / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *app, *place, *stores],
                env=os.environ | SWITCHES | self.environment,
                cwd=self.disk,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def _wait(self, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process is not None and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        pytest.fail(f"the MLflow server did not start: {self.log[-2000:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def mlflow_server(
    disk: Path, *, app: str | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Server]:
    """A started server with its database and files below `disk`."""
    disk.mkdir(parents=True, exist_ok=True)
    server = Server(disk, free_port(), app, environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def stored_weights(server: Server, source: str) -> Path:
    """The weights file of a logged model in the server's artefact store."""
    folder = f"*/models/{source.removeprefix('models:/')}"
    (weights,) = server.artefacts.glob(f"{folder}/**/diffusion_pytorch_model.safetensors")
    return weights
