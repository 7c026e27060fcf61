"""Telemetry: where spans go, which are kept, and in what form their context travels.

Owns what node, client and operator have in common of OpenTelemetry: the settings and the
exporter that an endpoint asks for (`endpoints`, `pipeline`), the share that is traced
(`sampling`), the context in W3C's header and in the frames of the native protocol
(`contexts`), and the one door to the SDK (`pipeline`).

Only `pipeline` imports the SDK, and whoever sends no spans never imports `pipeline`: it
costs a process 0.15 s of CPU and 20 MB, most of it gRPC's.
"""
