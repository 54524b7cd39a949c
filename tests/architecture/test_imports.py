"""Who may import whom.

The rules stand in house.py, one line each; this file shows that they hold and that they bite.
"""

import shutil

import pytest

from tests.architecture.house import MATHEMATICS, PARTS, ROOT, RULES, import_faults


def test_every_import_keeps_the_house_rules():
    assert import_faults(ROOT) == []


def test_every_file_of_mathematics_on_the_list_exists():
    assert [name for name in MATHEMATICS if not (ROOT / name).is_file()] == []


def test_every_rule_has_files_to_guard():
    from tests.architecture.house import python_files

    paths = list(python_files(ROOT))
    assert [rule.sentence for rule in RULES if not any(rule.applies(path) for path in paths)] == []


@pytest.fixture(scope="module")
def copy_of_the_house(tmp_path_factory):
    root = tmp_path_factory.mktemp("house")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize(
    ("planted", "line", "sentence"),
    [
        ("protos/trueline/planted.py", "import numpy", "1. the client imports grpc"),
        ("orchestrator/planted.py", "from services import weights", "2. the orchestrator imports trueline"),
        ("orchestrator/planted.py", "def late():\n    import torch", "2. the orchestrator imports trueline"),
        ("orchestrator/planted.py", "import kubernetes.client", "2. only orchestrator/cluster knows"),
        ("services/policy/planted.py", "from services.reward import x", "3. a service never imports another"),
        ("services/planted.py", "import services.trainer.ppo_loss", "3. a shared noun imports no service"),
        ("services/planted.py", "import pandas", "3. services import trueline"),
        ("services/sequences.py", "import transformers", "4. mathematics imports torch"),
        ("services/sequences.py", "from services import weights", "4. mathematics imports torch"),
        ("services/policy/planted.py", "from trueline.v1 import types_pb2", "5. no message below the edge"),
        ("services/policy/service.py", "import torch", "5. no tensor above it"),
        ("services/planted.py", "import worlds.helpdesk", "6. nobody imports worlds"),
        ("worlds/helpdesk/planted.py", "from services import models", "6. worlds import what is declared"),
    ],
)
def test_a_broken_rule_is_found(copy_of_the_house, planted, line, sentence):
    path = copy_of_the_house / planted
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        faults = import_faults(copy_of_the_house)
    finally:
        path.unlink() if before is None else path.write_text(before, encoding="utf-8")
    assert any(fault.startswith(f"{planted} imports ") and sentence in fault for fault in faults), faults
