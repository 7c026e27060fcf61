"""How the operator comes to its API server: which one, by which credentials.

Owns the configuration (loaded once), the one HTTP session, and that a token that
is about to expire is replaced: in a cluster the client reads the mounted token
anew every minute, for each request; the token of a credential plugin or cloud
provider in a kubeconfig is renewed here. Forbidden: knowing any object.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes.aio import config as loading
from kubernetes.aio.client import ApiClient, Configuration

from dynamo_core.errors import CallerError

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 60.0
_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
_DEFAULT_FILE: Final = "~/.kube/config"


class Connection:
    """One session with the API server; close it."""

    def __init__(self, configuration: Configuration, renewing: Any = None) -> None:
        """`renewing`: the loader of a kubeconfig whose token may have to be renewed."""
        self.configuration = configuration
        self._client = ApiClient(configuration)
        self._renewal = asyncio.create_task(_renew(renewing, configuration)) if renewing else None

    @classmethod
    async def open(cls) -> Connection:
        """By KUBECONFIG, else from inside a pod, else by ~/.kube/config.

        Raises CallerError if none of them tells of a server.
        """
        configuration = Configuration()
        given = os.environ.get("KUBECONFIG")
        where = given or _DEFAULT_FILE
        in_pod = not given and bool(os.environ.get(_IN_CLUSTER))
        if not in_pod and not _there(where):
            raise CallerError(f"no way to an API server: not in a pod, and no file {where}")
        try:
            if in_pod:
                loading.load_incluster_config(client_configuration=configuration)
                return cls(configuration)
            loader = await loading.load_kube_config(
                config_file=where, client_configuration=configuration, persist_config=False
            )
            return cls(configuration, loader)
        except Exception as error:  # the loader raises whatever a malformed file leads to
            source = "the pod's service account" if in_pod else where
            raise CallerError(f"no way to an API server by {source}: {error!r}") from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str],
        body: object,
        content_type: str,
        timeout_s: float,
    ) -> tuple[int, bytes]:
        """(status, body) of the answer. Raises what aiohttp and the token's source raise."""
        serialized = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(
            *serialized, _request_timeout=aiohttp.ClientTimeout(total=timeout_s)
        )
        return answer.status, await answer.read()

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        await self._client.close()


def _there(where: str) -> bool:
    return any(Path(part).expanduser().is_file() for part in where.split(os.pathsep) if part)


async def _renew(loader: Any, configuration: Configuration) -> None:
    """Ends when the configuration has nothing to renew."""
    while True:
        try:
            await loading.refresh_token(loader, configuration, RENEW_SECONDS)
        except Exception as error:  # a plugin may fail in any way; the old token may still do
            log.warning("the token for the API server could not be renewed: %s", error)
            await asyncio.sleep(RENEW_SECONDS)
        else:
            return
