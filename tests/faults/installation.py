"""Installs the fault layer in a process that was started with it, by what the process is.

    environment = {**os.environ, **fault_environment(plan_directory)}       # for the orchestrator
    # and the services that it starts inherit it

A service gets the service's edge; the orchestrator gets the caller's edge and the relay. Any other process
(a prepare command, pip, pytest) is left alone.
"""

import os
import sys
from pathlib import Path

from tests.faults.clock import preload
from tests.faults.plan import FaultPlan

REPOSITORY = Path(__file__).resolve().parent.parent.parent
VARIABLE = "TRUELINE_FAULT_PLAN"


def fault_environment(plan: Path) -> dict[str, str]:
    """What a process is started with, so that it and all below it take part in the plan."""
    paths = [str(REPOSITORY / "tests" / "faults" / "injected"), str(REPOSITORY), str(REPOSITORY / "protos")]
    return {VARIABLE: str(plan), "PYTHONPATH": os.pathsep.join(paths), **preload(plan)}


def module_of(words: list[str]) -> str:
    """The module of a `python -m MODULE` command line; "" for any other."""
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""


def install() -> None:
    """Puts the layer in place where this process is a service or the orchestrator."""
    module = module_of(sys.orig_argv)
    plan = FaultPlan(Path(os.environ[VARIABLE]))
    # Imported where needed: every Python process below the orchestrator passes here.
    if module == "orchestrator":
        from tests.faults.caller_edge import install_caller_edge

        install_caller_edge(plan)
    elif module.startswith("services."):
        from tests.faults.service_edge import install_service_edge

        install_service_edge(plan, module.removeprefix("services."))
