"""Telling: spans of a `dynamo` command, sent where OpenTelemetry's variables say.

Owns the SDK's life around a command. Whatever is wrong with the variables or the
collector is said in one line; the command itself never fails for it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from dynamo_client.cli.terminal import complain
from dynamo_core.errors import CallerError
from dynamo_telemetry.endpoints import from_environment


@contextmanager
def spans() -> Iterator[None]:
    """While it lasts, the client's calls are traced if the environment asks for it."""
    try:
        wanted = from_environment(os.environ)
        if not wanted.endpoint:
            yield
            return
        from opentelemetry import trace

        from dynamo_telemetry.pipeline import Pipeline, Service
    except CallerError as error:
        complain(f"no spans are sent: {error}")
        yield
        return
    except ImportError:
        complain("no spans are sent: the SDK isn't installed (pip install dynamo-store[tracing])")
        yield
        return
    pipeline = Pipeline(Service("dynamo-client", str(os.getpid()), version("dynamo-store")), wanted)
    trace.set_tracer_provider(pipeline.provider)
    try:
        yield
    finally:
        if not pipeline.close() or pipeline.facts()["failed"]:
            complain(f"some spans could not be sent to {wanted.endpoint}")
