"""Python imports this at start where PYTHONPATH leads here: the one way in, unknown to production code."""

import os

if os.environ.get("TRUELINE_FAULT_PLAN"):
    from tests.faults.installation import install

    install()
