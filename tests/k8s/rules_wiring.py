"""Rules about who finds whom: images, commands, flags, names, ports, addresses."""

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.recipe import Recipe, RecipeError, load_recipe
from services.settings import ServerSettings
from tests.k8s.manifests import (
    ROOT,
    WORKLOADS,
    Object,
    all_containers,
    containers,
    flag,
    named,
    of_kind,
    orchestrators,
    pod_spec,
    selects,
)
from tests.k8s.manifests import labels as pod_labels
from trueline.version import __version__

Faults = Iterator[str]

# Of others; each by its full version.
FOREIGN = re.compile(
    r"docker\.io/library/postgres:\d+\.\d+-bookworm"
    r"|docker\.io/vllm/vllm-openai:v\d+\.\d+\.\d+"
    r"|ghcr\.io/huggingface/text-generation-inference:\d+\.\d+\.\d+"
)
MOUNTED = ("/tls/", "/tokens/", "/constitution/")
PLACE = re.compile(r"/artifacts/[\w./-]+")


def images(objects: list[Object]) -> Faults:
    """Every image is a target of the Dockerfile, at this version, and holds what its command names."""
    targets = copied_by_target()
    for place, _, container in all_containers(objects):
        if FOREIGN.fullmatch(container["image"]):
            continue
        name, _, tag = container["image"].rpartition("/")[2].partition(":")
        target = name.removeprefix("trueline-")
        if target not in targets or not name.startswith("trueline-"):
            yield f"{place} runs {container['image']}, and the Dockerfile has no such target"
        elif container["command"][2].partition(".")[0] not in targets[target]:
            yield f"{place} runs {container['command'][2]}, which {target} does not hold"
        if tag != __version__:
            yield f"{place} runs tag {tag or 'latest'!r}, and this is version {__version__}"


def copied_by_target() -> dict[str, set[str]]:
    """{"client": {"protos"}, ...}: what the last stages of the Dockerfile copy from the repository."""
    found: dict[str, set[str]] = {}
    target = ""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if match := re.fullmatch(r"FROM \S+ AS (\S+)", line):
            target = match[1]
            found[target] = set()
        if match := re.fullmatch(r"COPY (\w+) \./\1", line):
            found[target].add(match[1])
    return {target: copied for target, copied in found.items() if copied}


def commands(objects: list[Object]) -> Faults:
    """Every command is `python -m` with a module of this repository, and takes the flags that it is given."""
    for place, _, container in all_containers(objects):
        command = container.get("command", [])
        if FOREIGN.fullmatch(container["image"]) and (not command or mounted_script(objects, command)):
            continue
        if command[:2] != ["python", "-m"] or len(command) != 3:
            yield f"{place} runs {' '.join(command) or 'what the image says'}, and not python -m MODULE"
        elif not (ROOT / command[2].replace(".", "/") / "__main__.py").is_file():
            yield f"{place} runs {command[2]}, and there is no such module"
        else:
            yield from (f"{place}: {fault}" for fault in flag_faults(command[2], container.get("args", [])))


def mounted_script(objects: list[Object], command: list[str]) -> bool:
    """Whether `python3 /x/FILE.py` in another's image is a file that a ConfigMap of this set holds."""
    name = Path(command[-1]).name
    held = any(name in item.get("data", {}) for item in of_kind(objects, "ConfigMap"))
    return command[:1] == ["python3"] and len(command) == 2 and held


def flag_faults(module: str, words: list[str]) -> Faults:
    """What the module's own command line finds wrong with these words."""
    main = importlib.import_module(f"{module}.__main__")
    if not module.startswith("services."):
        if (said := refusal(main.parser(), words)) is not None:
            yield said
        return
    kinds = [
        each for each in vars(main).values() if isinstance(each, type) and issubclass(each, ServerSettings)
    ]
    kind = next(each for each in kinds if each is not ServerSettings)
    known = {
        each.metadata["flag"] or "--" + each.name.replace("_", "-"): each for each in dataclasses.fields(kind)
    }
    for word in words:
        name, _, value = word.partition("=")
        if name not in known:
            yield f"{name}: no such flag"
            continue
        try:
            if not value.startswith(MOUNTED):  # a file that only the pod has
                known[name].metadata["parse"](value)
        except ValueError as error:
            yield f"{word}: {error}"


def refusal(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """What argparse says against the words, or None."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        parser.parse_args(words)
        return None
    return said.getvalue().strip().splitlines()[-1]


def ports(objects: list[Object]) -> Faults:
    """Flags, container ports and Service ports are the same numbers under the same names."""
    for workload in of_kind(objects, "StatefulSet", "Deployment"):
        if "grpc" not in port_names(workload):
            continue
        service = service_of(objects, workload)
        if service is None:
            yield f"{named(workload)} has no Service under its serviceName with its labels"
            continue
        if service["spec"].get("clusterIP") != "None" or not service["spec"].get("publishNotReadyAddresses"):
            yield f"{named(service)} hides pods: must be headless and name unready ones too"
        (container,) = pod_spec(workload)["containers"]
        offered = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        health = offered.pop("health", None)  # kubelet's alone
        if health is not None and not (flag(container, "--health-address") or "").endswith(f":{health}"):
            yield f"{named(workload)} is probed on {health}, and does not listen there"
        for name, flag_name in (("grpc", "--address"), ("metrics", "--metrics-address")):
            told = (flag(container, flag_name) or "").rpartition(":")[2]
            if str(offered.get(name)) != told:
                yield f"{named(workload)} listens on {told} and calls {offered.get(name)} its {name} port"
        served = {port["name"]: (port["port"], port["targetPort"]) for port in service["spec"]["ports"]}
        if served != {name: (number, name) for name, number in offered.items()}:
            yield f"{named(service)} offers {served}, and its pods {offered}"


def serving(objects: list[Object]) -> list[Object]:
    """The workloads that have a gRPC port."""
    return [each for each in of_kind(objects, *WORKLOADS) if "grpc" in port_names(each)]


def pod_names(objects: list[Object], workload: Object) -> list[str]:
    """What a StatefulSet's pods are called, or a JobSet's first one."""
    if workload["kind"] == "Job":
        (job_set,) = of_kind(objects, "JobSet")
        return [f"{job_set['metadata']['name']}-{job_set['spec']['replicatedJobs'][0]['name']}-0-0"]
    return [f"{workload['metadata']['name']}-{index}" for index in range(workload["spec"]["replicas"])]


def service_of(objects: list[Object], workload: Object) -> Object | None:
    """The Service that names a workload's pods: a StatefulSet's serviceName, a JobSet's subdomain."""
    subdomains = [each["spec"]["network"]["subdomain"] for each in of_kind(objects, "JobSet")]
    named_so = {workload["spec"].get("serviceName"), *(subdomains if workload["kind"] == "Job" else [])}
    for service in of_kind(objects, "Service"):
        if service["metadata"]["name"] in named_so and selects(
            service["spec"]["selector"], pod_labels(workload)
        ):
            return service
    return None


def label_sets(objects: list[Object]) -> Faults:
    """Selectors match their own pods and nobody else's; all is in one namespace and part of trueline."""
    workloads = of_kind(objects, *WORKLOADS)
    for workload in workloads:
        name = workload["metadata"]["name"]
        if pod_labels(workload).get("app.kubernetes.io/name") != name:
            yield f"{named(workload)} is not the name on its pods"
        if pod_labels(workload).get("app.kubernetes.io/part-of") != "trueline":
            yield f"{named(workload)} has pods that are not part of trueline"
        selector = workload["spec"].get("selector")
        if selector and [named(each) for each in workloads if selects(selector, pod_labels(each))] != [
            named(workload)
        ]:
            yield f"{named(workload)} selects other pods than its own"
    for service in of_kind(objects, "Service"):
        found = [named(each) for each in workloads if selects(service["spec"]["selector"], pod_labels(each))]
        if len(found) != 1:
            yield f"{named(service)} selects the pods of {', '.join(found) or 'nobody'}"
    for item in objects:
        if item["kind"] != "Namespace" and item["metadata"].get("namespace") != "trueline":
            yield f"{named(item)} is in no namespace of this set"


def addresses(objects: list[Object]) -> Faults:
    """The recipe loads, names each service by Service or by all its pods, and agrees with the pods' flags."""
    for job in orchestrators(objects):
        try:
            recipe, options = recipe_of(objects, job)
        except (RecipeError, KeyError) as error:
            yield f"{named(job)} has no recipe that loads: {error}"
            continue
        run = Path(options.runs) / (options.name or Path(options.recipe).stem)
        for name in sorted(recipe.needed_services):
            told = sorted(getattr(recipe.services, name).addresses)
            workload = next((each for each in serving(objects) if each["metadata"]["name"] == name), None)
            service = service_of(objects, workload) if workload else None
            if workload is None or service is None:
                yield f"the recipe needs {name}, and no Service names its pods"
                continue
            port = next(each["port"] for each in service["spec"]["ports"] if each["name"] == "grpc")
            host = service["metadata"]["name"]
            pods = [f"{pod}.{host}:{port}" for pod in pod_names(objects, workload)]
            if told not in ([f"kubernetes:///{name}:{port}"], pods):
                yield f"the recipe looks for {name} at {told}, and its pods are {pods}"
            (container,) = pod_spec(workload)["containers"]
            yield from agreement_faults(name, container, recipe, run)


def agreement_faults(name: str, container: Object, recipe: Recipe, run: Path) -> Faults:
    """Threads and scorers are the recipe's; what is followed is what the run publishes."""
    words = container.get("args", [])
    settings = getattr(recipe.services, name)
    if flag(container, "--threads") != str(settings.threads):
        yield f"{name} has {flag(container, '--threads')} threads, and {settings.threads} in the recipe"
    if name == "reward":
        hosted = {word for word in words if word.startswith(("--learned=", "--rule="))}
        asked = {f"--learned={each}" for each in settings.learned}
        asked |= {f"--rule={each}={function}" for each, function in settings.rules.items()}
        if hosted != asked:
            yield f"reward hosts {sorted(hosted)}, and the recipe asks for {sorted(asked)}"
    made = {str(output) for stage in recipe.stages.values() if (output := getattr(stage, "output", None))}
    for word in words:
        followed = Path(word.rpartition("=")[2])
        if word.startswith("--follow=") and (followed.parent != run / "models" or followed.name not in made):
            yield f"{name} follows {followed}, which the run does not publish"


def recipe_of(objects: list[Object], job: Object) -> tuple[Recipe, argparse.Namespace]:
    """The recipe as the orchestrator would load it, with its overrides; its inputs are made of thin air."""
    from orchestrator.__main__ import parser

    container = pod_spec(job)["containers"][0]
    options = parser().parse_args(container["args"])
    mount = next(
        each for each in container["volumeMounts"] if each["mountPath"] == str(options.recipe.parent)
    )
    volume = next(each for each in pod_spec(job)["volumes"] if each["name"] == mount["name"])
    maps = {item["metadata"]["name"]: item["data"] for item in of_kind(objects, "ConfigMap")}
    text = maps[volume["configMap"]["name"]][options.recipe.name]
    with tempfile.TemporaryDirectory() as directory:
        for place in PLACE.findall(text):
            path = Path(directory + place)
            path = path if path.suffix else path / "config.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        recipe_file = Path(directory) / options.recipe.name
        recipe_file.write_text(text.replace("/artifacts/", f"{directory}/artifacts/"))
        return load_recipe(recipe_file, options.overrides, options.seed, Path(directory) / "run"), options


def scraped(objects: list[Object]) -> Faults:
    """Each pod with metrics is scraped by one PodMonitor, under its service's name; there are alerts too."""
    monitors = of_kind(objects, "PodMonitor")
    for monitor in monitors:
        if set(monitor["spec"]) - {"selector", "podMetricsEndpoints", "jobLabel"}:
            yield f"{named(monitor)} has a field that these rules do not know"
        if monitor["spec"].get("jobLabel") != "app.kubernetes.io/name":
            yield f"{named(monitor)} does not name jobs by their service, as alerts and dashboards do"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if set(endpoint) - {"port", "path", "interval", "scrapeTimeout"}:
                yield f"{named(monitor)} has a field that these rules do not know"
            for workload in of_kind(objects, *WORKLOADS):
                found = selects(monitor["spec"]["selector"], pod_labels(workload))
                if found and endpoint["port"] not in port_names(workload):
                    yield f"{named(monitor)} looks for the port {endpoint['port']} of {named(workload)}"
    for workload in of_kind(objects, *WORKLOADS) if monitors else []:
        finders = [each for each in monitors if selects(each["spec"]["selector"], pod_labels(workload))]
        if "metrics" in port_names(workload) and len(finders) != 1:
            yield f"{len(finders)} monitors scrape {named(workload)}, and one should"
    if monitors and not of_kind(objects, "PrometheusRule"):
        yield "what is scraped has no alerts: no PrometheusRule is here"


def port_names(workload: Object) -> set[str]:
    """The names of its pods' ports."""
    return {port["name"] for container in containers(workload) for port in container.get("ports", [])}


WIRING_RULES = (images, commands, ports, label_sets, addresses, scraped)
