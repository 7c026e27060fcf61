"""How the door finds its API server and keeps its token fresh."""

import asyncio
import json
from datetime import datetime
from pathlib import Path

import certifi
import kmock
import pytest
from kubernetes.aio.config import incluster_config

from dynamo_core.errors import CallerError
from dynamo_operator.kube import connection as door
from dynamo_operator.kube import kinds
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.connection import Connection


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def kubeconfig(path: Path, url: str, user: dict[str, object]) -> None:
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))  # YAML, too


async def authorization(handler: kmock.RawHandler, connection: Connection) -> str:
    handler["get /api/v1/nodes"] << {"items": []}
    await Api(connection).list_all(kinds.NODE)
    return list(handler)[-1].headers["Authorization"]


async def test_a_kubeconfig_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kmock.RawHandler() as handler, kmock.Server(handler):
        kubeconfig(tmp_path / "k", str(handler.url), {"token": "secret-1"})
        monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/missing:{tmp_path}/k")
        connection = await Connection.open()
        try:
            assert await authorization(handler, connection) == "Bearer secret-1"
        finally:
            await connection.close()


async def test_the_kubeconfig_of_the_home(tmp_path: Path) -> None:
    async with kmock.RawHandler() as handler, kmock.Server(handler):
        where = tmp_path / "home" / ".kube" / "config"
        kubeconfig(where, str(handler.url), {"token": "secret-2"})
        connection = await Connection.open()
        try:
            assert await authorization(handler, connection) == "Bearer secret-2"
        finally:
            await connection.close()


async def test_the_token_of_a_plugin_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\n"
        f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); n=$((n+1)); echo $n > {tmp_path}/n\n"
        'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1beta1\\",'
        ' \\"kind\\": \\"ExecCredential\\", \\"status\\": {\\"token\\": \\"t$n\\"}}"\n'
    )
    plugin.chmod(0o755)
    monkeypatch.setattr(door, "RENEW_SECONDS", 0.05)
    async with kmock.RawHandler() as handler, kmock.Server(handler):
        run = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": str(plugin)}
        kubeconfig(tmp_path / "k", str(handler.url), {"exec": run})
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "k"))
        connection = await Connection.open()
        try:
            first = await authorization(handler, connection)
            async with asyncio.timeout(20):
                while await authorization(handler, connection) == first:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()


async def test_in_a_pod_the_mounted_token_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", certifi.where())
    loader = incluster_config.InClusterConfigLoader
    read = loader._read_token_file

    def read_and_let_a_minute_pass(self: incluster_config.InClusterConfigLoader) -> None:
        read(self)
        self.token_expires_at = datetime(2000, 1, 1)  # noqa: DTZ001  (as the client does)

    monkeypatch.setattr(loader, "_read_token_file", read_and_let_a_minute_pass)
    connection = await Connection.open()
    configuration = connection.configuration
    assert configuration.host == "https://127.0.0.1:6443"
    assert await configuration.get_api_key_with_prefix("BearerToken") == "bearer first"
    token.write_text("second")
    assert await configuration.get_api_key_with_prefix("BearerToken") == "bearer second"
    await connection.close()


async def test_no_way_to_a_server_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CallerError, match=r"not in a pod, and no file ~/.kube/config"):
        await Connection.open()
    broken = tmp_path / "k"
    broken.write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(broken))
    with pytest.raises(CallerError, match="no way to an API server"):
        await Connection.open()
    broken.write_text("a: [")
    with pytest.raises(CallerError, match="no way to an API server"):
        await Connection.open()
