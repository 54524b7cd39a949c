"""An evaluation is a run of its own, of one stage: this makes its recipe from what a person asked.

It lies in runs/RUN/evaluations, or in runs/evaluations where no run was named, under a name that follows from
what was asked: the same question again goes on where it stood, or shows what was found.
"""

import contextlib
import hashlib
import importlib.util
import json
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.data import file_sha256, read_prompts
from orchestrator.drive import checked_name, new_run, open_run, same_run
from orchestrator.evaluation.external import judge_at_addresses
from orchestrator.evaluation.held import as_held, hold_versions
from orchestrator.evaluation.probes import read_probes
from orchestrator.evaluation.subjects import (
    EvaluationError,
    Origin,
    Subject,
    as_name,
    joined,
    same_tokenizer,
    subject,
    two_subjects,
)
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger, sqlite_url
from orchestrator.ledger_place import holds_run
from orchestrator.recipe import load_recipe
from orchestrator.recipe_evaluation import BestOfN, DiversitySettings, Evaluated
from orchestrator.recipe_settings import DataSettings

PROBES = REPOSITORY / "recipes" / "probes"
STAGE = "assess"
SERVICES = ("policy", "reference", "reward", "judge")

Values = dict[str, Any]


def evaluation(options: Namespace) -> tuple[Path, Ledger]:
    """The directory and ledger of the evaluation that was asked for, begun or gone on with.

    Asks a judge that stands at addresses who it is, in an event loop of its own.
    """
    origin = origin_of(options)
    recipe = recipe_of(options, origin)
    judge = judge_at_addresses(recipe["services"])
    parent = options.runs / options.run if options.run else options.runs
    made = f"{recipe['name']}-{digest(recipe, origin, judge)[:8]}"
    if judge is not None:  # no address is a part of what a recipe asks, so that its name has to tell
        recipe["name"] = made
    name = options.name or made
    directory = parent / "evaluations" / checked_name(name)
    models = recipe["models"]
    recipe["models"] = as_held(models, origin, directory) if origin else models
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evaluation.yaml"
        path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
        if holds_run(directory):
            return directory, same_run(path, directory, [], None)
        if origin is not None:
            load_recipe(path, run_dir=directory)  # nothing is held for what cannot be asked
            hold_versions(models, origin, directory)
        return directory, new_run(path, directory, [], None, sqlite_url(directory))


def origin_of(options: Namespace) -> Origin | None:
    """The run that was named."""
    if not options.run:
        return None
    directory = options.runs / checked_name(options.run)
    ledger = open_run(directory, options.ledger)
    # As it lies there, and not only where it is what the run began with: a newer version of this program may
    # have added settings, which are no reason against a look at what the run made.
    return Origin(ledger, load_recipe(directory / "recipe.yaml", run_dir=directory), directory)


def recipe_of(options: Namespace, origin: Origin | None) -> Values:
    """The recipe of the evaluation, checked as far as that can be without a service."""
    stage = stage_of(origin)
    names = [_required(options, stage, name) for name in ("before", "after")]
    before, after = two_subjects(names[0], names[1], origin)
    models = {each.name: each.place for each in (before, after)}
    told: Values = {"kind": STAGE, "before": before.name, "after": after.name}
    asked = options.reference or (stage.reference if stage else None)
    reference = before if asked in (None, "none") else subject(asked, origin)
    told |= {"prompts": prompts_of(options, stage, origin), "prompt_limit": options.prompt_limit}
    told |= {"sampling": sampling_of(options, stage), "examples": options.examples}
    plain = told["sampling"].get("top_p", 1.0) == 1.0 and not told["sampling"].get("top_k")
    sides = [each.place if origin is None else origin.files_of(each.place) for each in (reference, after)]
    if asked != "none" and plain and same_tokenizer(*sides):
        told["reference"] = joined(models, reference)
    told |= {"too_long": options.too_long or (stage.too_long if stage else "refuse")}
    told |= {"probes": probe_files(options.probes), "probe_tokens": options.probe_tokens}
    told |= scorers_of(options, stage)
    told |= judge_of(options)
    told |= {"diversity": None, "best_of_n": None}
    if options.diversity_samples:
        told["diversity"] = {
            "samples": options.diversity_samples,
            "prompt_limit": DiversitySettings.model_fields["prompt_limit"].default,
        }
    if options.best_of_n:
        limit = options.best_of_n_prompts or BestOfN.model_fields["prompt_limit"].default
        told["best_of_n"] = {"n": options.best_of_n, "model": before.name, "prompt_limit": limit}
    services = services_of(options, told, origin, models)
    seed = options.seed if options.seed is not None else origin.recipe.seed if origin else 0
    name = as_name(f"{before.name}-{after.name}")
    return {"name": name, "seed": seed, "models": models, "services": services, "stages": {STAGE: told}}


def stage_of(origin: Origin | None) -> Evaluated | None:
    """The run's own evaluation, which gives the defaults."""
    stages = origin.recipe.stages.values() if origin else ()
    return next((each for each in stages if isinstance(each, Evaluated)), None)


def _required(options: Namespace, stage: Evaluated | None, name: str) -> str:
    given = getattr(options, name) or (getattr(stage, name) if stage else None)
    if given is None:
        why = "the run has no evaluate stage that says it" if options.run else "no run is named that says it"
        raise EvaluationError(f"--{name} is needed: {why}")
    return str(given)


def prompts_of(options: Namespace, stage: Evaluated | None, origin: Origin | None) -> str | Values:
    """The held-out prompts; a file is read, so that a faulty row is told now."""
    if options.prompts is not None:
        path = options.prompts.resolve()
        if not path.is_file():
            raise EvaluationError(f"--prompts: no such file: {options.prompts}")
        read_prompts(path, shape="auto")
        return {"path": str(path), "shape": "auto"}
    if stage is None or origin is None:
        raise EvaluationError("--prompts is needed: no run is named that has held-out prompts")
    if options.prompt_limit is None:
        options.prompt_limit = stage.prompt_limit
    prompts = stage.prompts
    if isinstance(prompts, DataSettings):
        return prompts.model_dump(mode="json")
    if not Path(prompts).is_file():
        raise EvaluationError(f"the run's held-out prompts are gone: no such file: {prompts}")
    return prompts


def sampling_of(options: Namespace, stage: Evaluated | None) -> Values:
    """As the run samples, with what the command line changes."""
    sampling = stage.sampling.model_dump() if stage else {"temperature": 1.0, "max_new_tokens": 256}
    changes = {name: getattr(options, name) for name in ("temperature", "max_new_tokens")}
    return sampling | {name: value for name, value in changes.items() if value is not None}


def probe_files(asked: list[str]) -> dict[str, str]:
    """The path of each set of probes by name, read so that faulty rows are told now; "all" are ours."""
    shipped = {path.stem: path for path in sorted(PROBES.glob("*.jsonl"))}
    found: dict[str, str] = {}
    for each in asked:
        for path in shipped.values() if each == "all" else [shipped.get(each, Path(each))]:
            if not path.is_file():
                raise EvaluationError(f"--probes: no such file: {each}; shipped are {', '.join(shipped)}")
            read_probes(path)
            joined(found, Subject(as_name(path.stem), str(path.resolve())))
    return found


def scorers_of(options: Namespace, stage: Evaluated | None) -> Values:
    """Who scores: what was named, else what the run's evaluation names; "none" leaves one out."""
    found: Values = {}
    for role in ("gold", "proxy"):
        named = getattr(options, role)
        own = getattr(stage, f"{role}_scorer") if stage else None
        found[f"{role}_scorer"] = None if named == "none" else named or own
    if stage is not None and found["gold_scorer"] == stage.gold_scorer:
        found |= {"best_scorer": stage.best_scorer, "ceilings": dict(stage.ceilings)}
    if options.best_of_n and found["proxy_scorer"] is None:
        raise EvaluationError("--best-of-n needs a proxy that chooses the best: name one with --proxy")
    return found


def judge_of(options: Namespace) -> Values:
    """How the judge is asked; any word about it asks one."""
    words = (options.judge, options.judge_model, options.judge_endpoint, options.judge_address)
    if not any(words):
        if options.probe_judge:
            raise EvaluationError("--probe-judge needs a judge: --judge, --judge-model or --judge-endpoint")
        return {"judge": None}
    label = {"kind": "judge", "choice": options.principle_choice, "principles": options.principles}
    label |= {"tie_band": options.tie_band}
    return {"judge": label, "judge_scores": not options.no_judge_scores, "probe_judge": options.probe_judge}


def judge_service(
    options: Namespace, hosted: Values, origin: Origin | None, models: dict[str, str]
) -> Values:
    """The judge as the run has it, or as the command line says; a local judge's model joins `models`."""
    judge: Values = dict(hosted)
    if options.constitution is not None:
        if not options.constitution.is_file():
            raise EvaluationError(f"--constitution: no such file: {options.constitution}")
        judge["constitution"] = str(options.constitution.resolve())
    if options.judge_endpoint:
        judge |= {"endpoint": options.judge_endpoint, "endpoint_model": options.judge_endpoint_model}
        judge |= {"api_key_env": options.judge_key_env, "model": None}
    if options.judge_endpoint or options.judge_model:
        judge["rotation"] = []  # one judge was named: it judges alone
    named_model = options.judge_model or judge.get("model")
    if named_model:
        name = joined(models, subject(named_model, origin))
        judge |= {"model": name, "endpoint": None, "endpoint_model": None, "api_key_env": None}
    judge["rotation"] = [joined(models, subject(each, origin)) for each in judge.get("rotation", ())]
    whole = judge.get("constitution") and (judge.get("model") or judge.get("endpoint"))
    if not (whole or judge.get("addresses") or options.judge_address):
        raise EvaluationError(
            "the judge needs --judge-address, or --constitution and one of --judge-model and --judge-endpoint"
        )
    return judge


def services_of(options: Namespace, told: Values, origin: Origin | None, models: dict[str, str]) -> Values:
    """The services as the run has them, hosting what this evaluation needs; or those at the addresses given.

    A learned scorer's model joins `models`. EvaluationError where a run is under way on those services.
    """
    services: Values = origin.recipe.services.model_dump(mode="json") if origin else {}
    named_scorers = [told.get(f"{role}_scorer") for role in ("gold", "proxy", "best")]
    used = {each for each in [*named_scorers, *told.get("ceilings", {}).values()] if each is not None}
    hosted = services.get("reward", {})
    combined = dict(hosted.get("combined", {}))
    for name in reversed(combined):  # each stands behind its parts
        used |= set(combined[name]["parts"]) if name in used else set()
    rules = {**hosted.get("rules", {}), **dict(named(options.rules, "--rule", "module:function"))}
    learned = dict(named(options.reward_models, "--reward-model", "MODEL"))
    places = {name: subject(place, origin).place for name, place in learned.items()}
    for name in sorted(used - set(rules) - set(learned) - set(combined)):
        place = origin.place(name) if origin else None
        if place is None:
            known = ", ".join(sorted({*rules, *learned, *combined, *hosted.get("learned", ())})) or "none"
            raise EvaluationError(
                f"no scorer {name!r} is known (known: {known}): name it with --rule or --reward-model"
            )
        places[name] = place
    for name in sorted(used & set(places)):
        if models.setdefault(name, places[name]) != places[name]:
            raise EvaluationError(
                f"a scorer and a model to compare are both called {name!r}: rename one of them"
            )
    reward = {
        "rules": {name: rules[name] for name in sorted(used & set(rules))},
        "combined": {name: each for name, each in combined.items() if name in used},
    }
    services["reward"] = {**hosted, **reward, "learned": sorted(used & set(places))}
    services.pop("trainer", None)
    if told["judge"] is not None:
        services["judge"] = judge_service(options, services.get("judge", {}), origin, models)
    else:
        services.pop("judge", None)
    for name in SERVICES[: None if told["judge"] else -1]:
        given = getattr(options, f"{name}_address")
        own = services.setdefault(name, {}).get("addresses")
        if given:
            services[name]["addresses"] = given
        elif own and origin and origin.ledger.info()["status"] == "running":
            raise EvaluationError(
                f"run {options.run} is under way on the {name} service at {', '.join(own)}: wait until it is "
                f"finished, or give other services (--{name}-address)"
            )
    return services


def named(given: list[str], flag: str, what: str) -> Iterator[tuple[str, str]]:
    """(name, value) of each "name=value"."""
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals and value):
            raise EvaluationError(f"{flag} {each!r}: must be NAME={what}")
        yield name, value


def digest(recipe: Values, origin: Origin | None, judge: Values | None = None) -> str:
    """SHA-256 of a recipe and of what it names: files, models, rules' code. Less who serves it.

    `judge` is what one at addresses says of itself: by default its addresses tell it from another.
    """
    kept = json.loads(json.dumps(recipe))
    addresses = kept["services"].get("judge", {}).get("addresses")
    if addresses:
        kept["judge"] = judge or {"addresses": sorted(addresses)}
    for service in kept["services"].values():
        service.pop("addresses", None)
        service.pop("replicas", None)
    stage = kept["stages"][STAGE]
    prompts = stage["prompts"]["path"] if isinstance(stage["prompts"], dict) else stage["prompts"]
    constitution = kept["services"].get("judge", {}).get("constitution")
    rules = kept["services"].get("reward", {}).get("rules", {})
    named_files = [prompts, *stage["probes"].values(), constitution, *map(code_of, rules.values())]
    files = [path for path in named_files if path and Path(path).is_file()]
    kept["files"] = {path: file_sha256(Path(path)) for path in files}
    kept["content"] = {name: content_of(place, origin) for name, place in kept["models"].items()}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def code_of(rule: str) -> str | None:
    """The file of a rule's module, as far as it is found here."""
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(rule.partition(":")[0])
        return spec.origin if spec else None
    return None


def content_of(place: str, origin: Origin | None) -> dict[str, Any]:
    """What tells one content of a model's directory from another, without reading gigabytes."""
    directory, row = Path(place), origin.version_at(place) if origin else None
    if row is not None:  # its files may be gone; a version's digest is its manifest's
        return {"manifest.json": row["sha256"]}
    if (directory / "manifest.json").is_file():  # a version: its manifest has a digest of every file
        return {"manifest.json": file_sha256(directory / "manifest.json")}
    small = {path.name: file_sha256(path) for path in sorted(directory.glob("*.json"))}
    weights = {path.name: path.stat() for path in sorted(directory.glob("*.safetensors"))}
    return small | {name: [found.st_size, found.st_mtime_ns] for name, found in weights.items()}
