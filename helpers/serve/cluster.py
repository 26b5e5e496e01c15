"""Replicas of the server on one or more machines: Ray Serve starts them, spreads requests, replaces dead ones."""

import os
import signal
import socket
import threading
from dataclasses import replace

from helpers.errors import TutorialError
from helpers.serve.engine import Engine, Limits
from helpers.settings import Settings

NAME = "chat"
# Ray reads these when it is imported.  No usage statistics; token authentication; no extra thread or event loop in the
# path of a request; log records are written 1,000 at a time rather than one by one.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",  # with 1, the only proxy would leave other machines idle
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",  # the default, 0.1, uses a seventh of a core
    "RAY_enable_metrics_collection": "0",  # these are Ray's; the server's own are at /metrics
    "RAY_worker_niceness": "0",  # the default, 15, yields to everything else on the machine
}


def application(settings: Settings, api_key: str, limits: Limits, replicas: int, threads: int | None):
    """Return the Ray Serve application: `replicas` processes, each with the model and the HTTP interface."""
    from ray import serve

    @serve.deployment(
        name=NAME,
        num_replicas=replicas,
        max_ongoing_requests=10_000,  # the engine refuses requests above its own limit, with 429
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": 0.1},
    )
    @serve.ingress()
    class Replica:
        def __init__(self) -> None:
            bound = {"INFERENCE_NUM_THREADS": str(threads)} if threads else {}
            self.engine = Engine.load(replace(settings, ov_config=settings.ov_config | bound), limits)

        def __serve_build_asgi_app__(self):
            from helpers.serve.app import create_app

            return create_app(self.engine, api_key)

        def check_health(self) -> None:
            if self.engine.failure:
                os._exit(1)  # Ray replaces a dead replica at once, a failing one after several checks

    return Replica.bind()


def serve(
    settings: Settings, api_key: str, host: str, port: int, replicas: int, address: str | None, limits: Limits
) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish the answers in progress.  Raises TutorialError if it cannot start."""
    os.environ.update(ENVIRONMENT)
    try:
        import ray
        from ray import serve
    except ImportError as error:
        hint = "Install them: python -m pip install --editable .[serve] --constraint constraints.txt"
        raise TutorialError("The server's libraries are not installed.", hint) from error
    if not address:
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            what = f"{host}:{port} cannot be used: {error.strerror or error}."
            raise TutorialError(what, "Choose a different --port, or stop the program that uses this one.") from error
    options = {"runtime_env": {"env_vars": ENVIRONMENT}, "log_to_driver": False, "logging_level": "error"}
    try:
        options |= {"address": address} if address else {"include_dashboard": False}
        try:
            ray.init(**options)
        except Exception:  # a machine's first start may exceed the 15 s that a node waits for its agents
            ray.shutdown()
            ray.init(**options)
        http, logging = {"host": host, "port": port}, {"enable_access_log": False, "log_level": "WARNING"}
        serve.start("HeadOnly", http_options=http, logging_config=logging)
        threads = None if address else max(1, (os.cpu_count() or 1) // replicas)
        serve.run(application(settings, api_key, limits, replicas, threads), name=NAME, logging_config=logging)
    except Exception as error:  # Ray raises many types
        ray.shutdown()
        hint = "Is the address right?  On a busy machine Ray may give up too early: try again."
        raise TutorialError(f"Ray Serve did not start: {error}", hint) from error
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print("Ready.  Press Ctrl-C to stop.", flush=True)
    while not ended.wait(1):  # on Windows, Ctrl-C does not interrupt a wait without a limit
        pass
    print("Finishing the answers in progress, then stopping.", flush=True)
    serve.delete(NAME)
    if not address:  # a cluster of others may run other applications
        serve.shutdown()
    ray.shutdown()
