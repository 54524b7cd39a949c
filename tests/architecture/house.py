"""The house rules as data, and a reader of Python files that finds where they are broken."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protos", "services", "orchestrator", "worlds", "benchmarks", "tests")
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")

STDLIB = set(sys.stdlib_module_names)
# What pyproject.toml declares for each part, by import name.
CLIENT_NEEDS = {"grpc", "google"}
SERVICES_NEED = CLIENT_NEEDS | {
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "httpx",
    "huggingface_hub",
    "jinja2",
    "numpy",
    "prometheus_client",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "yaml",
}
ORCHESTRATOR_NEEDS = CLIENT_NEEDS | {
    "alembic",
    "datasets",
    "jinja2",
    "kubernetes",
    "matplotlib",
    "prometheus_client",
    "pydantic",
    "rich",
    "sqlalchemy",
    "urllib3",
    "yaml",
}
WORLDS_NEED = {"numpy", "safetensors", "tokenizers", "torch", "transformers", "yaml"}

MATHEMATICS = (
    "services/judge/labels.py",
    "services/sequences.py",
    "services/trainer/advantages.py",
    "services/trainer/bradley_terry.py",
    "services/trainer/kl_control.py",
    "services/trainer/ppo_loss.py",
    "services/trainer/preference_losses.py",
)
SERVICES = ("policy", "reference", "reward", "judge", "trainer")
# Where messages become plain values: each service's edge, and what the edges share.
EDGES = ("service.py", "server.py", "wire.py", "preference_wire.py", "model_edge.py")


@dataclass(frozen=True)
class Rule:
    """Files that `applies` to may not import what `forbids` says."""

    sentence: str
    applies: Callable[[PurePosixPath], bool]
    forbids: Callable[[PurePosixPath, str], bool]


def under(folder: str) -> Callable[[PurePosixPath], bool]:
    return lambda path: path.is_relative_to(folder)


def beyond(*roots: str) -> Callable[[PurePosixPath, str], bool]:
    """Everything but the standard library and these."""
    return lambda path, module: module.partition(".")[0] not in STDLIB.union(roots)


def another_service(path: PurePosixPath, module: str) -> bool:
    """services/policy/engine.py may import services.policy and services.weights, not services.reward."""
    names = module.split(".")
    return len(names) > 1 and names[0] == "services" and names[1] in SERVICES and names[1] != path.parts[1]


RULES = (
    Rule(
        "1. the client imports grpc, protobuf and itself only",
        under("protos/trueline"),
        beyond(*CLIENT_NEEDS, "trueline"),
    ),
    Rule(
        "2. the orchestrator imports trueline, never services, never torch",
        under("orchestrator"),
        beyond(*ORCHESTRATOR_NEEDS, "trueline", "orchestrator"),
    ),
    Rule(
        "2. only orchestrator/cluster knows Kubernetes",
        lambda path: path.parts[0] == "orchestrator" and not path.is_relative_to("orchestrator/cluster"),
        lambda path, module: module.partition(".")[0] in ("kubernetes", "urllib3"),
    ),
    Rule(
        "3. a service never imports another service",
        lambda path: path.parts[0] == "services" and len(path.parts) > 2,
        another_service,
    ),
    Rule(
        "3. a shared noun imports no service",
        lambda path: path.parts[0] == "services" and len(path.parts) == 2,
        another_service,
    ),
    Rule(
        "3. services import trueline, their shared nouns and what is declared for them",
        under("services"),
        beyond(*SERVICES_NEED, "trueline", "services"),
    ),
    Rule(
        "4. mathematics imports torch and the standard library only",
        lambda path: str(path) in MATHEMATICS,
        beyond("torch"),
    ),
    Rule(
        "5. no message below the edge",
        lambda path: path.parts[0] == "services" and path.name not in EDGES,
        lambda path, module: module.split(".")[:2] == ["trueline", "v1"],
    ),
    Rule(
        "5. no tensor above it",
        lambda path: path.parts[0] == "services" and path.name in EDGES,
        lambda path, module: module.partition(".")[0] in ("torch", "transformers", "numpy"),
    ),
    Rule(
        "6. nobody imports worlds",
        lambda path: path.parts[0] not in ("worlds", "tests"),
        lambda path, module: module.partition(".")[0] == "worlds",
    ),
    Rule(
        "6. worlds import what is declared, and nobody else's code",
        under("worlds"),
        beyond(*WORLDS_NEED, "worlds"),
    ),
)


def python_files(root: Path) -> Iterator[PurePosixPath]:
    """Every Python file of ours under `root`, generated ones left out."""
    for part in PARTS:
        for path in sorted((root / part).rglob("*.py")):
            if not GENERATED.search(path.name):
                yield PurePosixPath(path.relative_to(root).as_posix())


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names: `from services import weights` gives services and services.weights."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@functools.cache
def modules_of(source: str) -> tuple[str, ...]:
    """What a file's text imports, sorted; every planted line has all other files read again, unchanged."""
    return tuple(sorted(set(imported_modules(ast.parse(source)))))


def import_faults(root: Path) -> list[str]:
    """One line per broken import rule: file, module, rule."""
    return [
        f"{path} imports {module}: {rule.sentence}"
        for path in python_files(root)
        for module in modules_of((root / path).read_text(encoding="utf-8"))
        for rule in RULES
        if rule.applies(path) and rule.forbids(path, module)
    ]


LONGEST_FUNCTION = 80
LONGEST_FILE = 400
VAGUE_NAMES = re.compile(r"(^|_)(utils?|common|helpers?|core|base|manager)(_|$)")


def size_faults(root: Path) -> list[str]:
    """One line per function or file that grew too long."""
    faults = []
    for path in python_files(root):
        text = (root / path).read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > LONGEST_FILE:
            faults.append(f"{path} has {lines} lines; {LONGEST_FILE} at most")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    faults.append(f"{path}: {node.name} has {length} lines; {LONGEST_FUNCTION} at most")
    return faults


def name_faults(root: Path) -> list[str]:
    """One line per Python file or folder whose name says nothing."""
    return [
        f"{path}: nothing is named {part}"
        for path in python_files(root)
        for part in (*path.parts[:-1], path.stem)
        if VAGUE_NAMES.search(part)
    ]


TEXT_SUFFIXES = {"", ".py", ".pyi", ".proto", ".toml", ".txt", ".yaml", ".yml", ".md", ".json", ".sh"}
# Put together from pieces, so that this file does not break its own rule. PyTorch's public CPU index may be
# named: a reader on a machine without a GPU needs it.
HOMES = "|".join(["work", "root", "home", "Users"])
REGISTRIES = [
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "com"),
    ("npmjs", "org"),
]
MACHINE = re.compile(
    rf"(?<![\w.<{{$-])/(?:{HOMES})/\w|" + "|".join(re.escape(".".join(host)) for host in REGISTRIES)
)


def machine_faults(root: Path, files: list[str]) -> list[str]:
    """One line per place that names somebody's machine or a package registry."""
    faults = []
    for name in files:
        path = root / name
        if path.suffix not in TEXT_SUFFIXES or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            found = MACHINE.search(line)
            if found:
                faults.append(f"{name}:{number} names {found.group()!r}")
    return faults
