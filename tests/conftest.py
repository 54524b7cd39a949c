"""Settings that every test runs under; they must stand before torch and grpc are first imported."""

import os

# One thread: two cores are shared by the services that tests start, and results then repeat bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests start processes while gRPC runs; they exec at once, so its fork handlers only make noise.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# Counts, at the end of a run, which known answers were tested.
pytest_plugins = ["tests.known_answers.counting"]
