"""A real API server for tests: etcd and kube-apiserver on 127.0.0.1, without any node.

The binaries are those of KUBEBUILDER_ASSETS, as controller-runtime's envtest has it. One
server serves many tests; each makes a namespace of its own.
"""

import contextlib
import http.client
import json
import os
import secrets
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ports import free_ports

ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
PROGRAMS = ("etcd", "kube-apiserver")
MISSING = [name for name in PROGRAMS if not (Path(ASSETS or "/nowhere") / name).is_file()]
WHY_SKIPPED = f"KUBEBUILDER_ASSETS names no folder with {' and '.join(MISSING)}"
START_SECONDS = 90.0
STOP_SECONDS = 15.0
TRIES = 3  # another process may take a free port before we do


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server. token: of a user who may do everything."""

    port: int
    token: str
    ca_file: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, Any]:
        """Status and answer of one request, as JSON or else as text."""
        with contextlib.closing(Door(self)) as door:
            return door.ask(method, path, body, kind, accept)

    def made(self, path: str, body: Any) -> Any:
        """What was created; it must be."""
        status, told = self.ask("POST", path, body)
        assert status == 201, told
        return told

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig file for that user (JSON is YAML)."""
        cluster = {"server": self.url, "certificate-authority": str(self.ca_file)}
        context = {"cluster": "test", "user": "admin", "namespace": "default"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }
        path.write_text(json.dumps(config))
        return path


class Door:
    """One connection to it, for one thread that asks again and again; close it."""

    def __init__(self, server: ApiServer) -> None:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=30, context=context
        )
        self._token = server.token

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, Any]:
        """As `ApiServer.ask`."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": kind,
            "Accept": accept,
        }
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, headers)
        answer = self._connection.getresponse()
        told = answer.read().decode()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(told)
        return answer.status, told

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Runs both programs in a folder, and ends them whatever happens."""
    for attempt in range(TRIES):
        here = folder / f"try-{attempt}"
        here.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            try:
                server = _started(stack, here)
            except ConnectionError:
                if attempt == TRIES - 1:
                    raise
                continue
            yield server
            return


def _started(stack: contextlib.ExitStack, folder: Path) -> ApiServer:
    etcd_port, port = free_ports(2)
    etcd_url = f"http://127.0.0.1:{etcd_port}"
    etcd = _run(
        stack,
        folder,
        "etcd",
        f"--data-dir={folder / 'etcd-data'}",
        f"--listen-client-urls={etcd_url}",
        f"--advertise-client-urls={etcd_url}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
    )
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    (folder / "accounts.key").write_text(_elliptic_key())
    apiserver = _run(
        stack,
        folder,
        "kube-apiserver",
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certs'}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--service-account-issuer=https://127.0.0.1/",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
    )
    server = ApiServer(port, token, folder / "certs" / "apiserver.crt")
    deadline = time.monotonic() + START_SECONDS
    while not _ready(server):
        for name, process in (("etcd", etcd), ("kube-apiserver", apiserver)):
            if process.poll() is not None or time.monotonic() > deadline:
                log = (folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise ConnectionError(f"{name} doesn't come up:\n{log}")
        time.sleep(0.1)
    return server


def _ready(server: ApiServer) -> bool:
    """Ready, and the namespace that every server has is there."""
    try:
        ready = server.ask("GET", "/readyz")[0] == 200
        return ready and server.ask("GET", "/api/v1/namespaces/default")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _run(
    stack: contextlib.ExitStack, folder: Path, name: str, *arguments: str
) -> subprocess.Popen[bytes]:
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        [str(Path(ASSETS) / name), *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=folder,
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _elliptic_key() -> str:
    """A private key of the curve P-256 (RFC 5915), to sign service accounts' tokens with."""
    secret = b"\0" + secrets.token_bytes(31)  # below the order of the curve
    curve = bytes.fromhex("a00a06082a8648ce3d030107")
    der = b"\x30\x31\x02\x01\x01\x04\x20" + secret + curve
    body = b64encode(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n"
