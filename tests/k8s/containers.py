"""Images built with buildah on a base made here, and run as Kubernetes runs them.

The base stands in for python:3.11-slim-bookworm where no registry can be reached: this machine's Python and
the libraries it loads, and nothing else.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "localhost/trueline-test-python:local"
TOOLS = ("sh", "cat", "ls", "mkdir")  # buildah's RUN needs a shell
WHEELS_NEED = ("libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1", "libz.so.1", "libdl.so.2", "librt.so.1")
PIP_KEYS = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "default-timeout", "proxy")
BUILD_SECONDS, RUN_SECONDS = 3000, 300  # far more than an idle machine needs


def missing_tools() -> str:
    """Why images cannot be built here, or ""."""
    absent = [tool for tool in ("buildah", "unshare", "setpriv") if shutil.which(tool) is None]
    if absent:
        return f"{' and '.join(absent)} missing (apt-get install buildah util-linux)"
    return "" if os.geteuid() == 0 else "must be root: buildah --isolation chroot mounts"


class Builder:
    """buildah with a store of its own, so that nothing is left on the machine."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._buildah = ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run")]

    def buildah(self, *words: str, seconds: float = RUN_SECONDS) -> str:
        """Runs one command; AssertionError with what it said when it fails."""
        done = subprocess.run(
            [*self._buildah, *words], capture_output=True, text=True, timeout=seconds, cwd=ROOT
        )
        assert done.returncode == 0, (
            f"buildah {' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout.strip()

    def make_base(self) -> None:
        """This machine's Python as an image."""
        tree = self.store / "base"
        copy_python(tree)
        container = self.buildah("from", "scratch")
        self.buildah("copy", container, str(tree), "/", seconds=BUILD_SECONDS)
        self.buildah("commit", "--rm", container, BASE, seconds=BUILD_SECONDS)
        shutil.rmtree(tree)

    def build(self, target: str) -> str:
        """One target of the Dockerfile; the image's name."""
        secret, image = self.store / "pip.conf", f"localhost/trueline-{target}:test"
        settings = pip_settings()
        secret.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
        mounts = [f"--volume={path}:{path}:ro" for path in local_paths(settings.values())]
        self.buildah(
            "build", "--isolation=chroot", "--layers", f"--target={target}", f"--tag={image}", *mounts,
            f"--build-arg=PYTHON_IMAGE={BASE}", f"--secret=id=pip,src={secret}", ".",
            seconds=BUILD_SECONDS,
        )  # fmt: skip
        return image

    def config(self, image: str) -> dict:
        """The image's own settings: Entrypoint, Cmd, Env, User, WorkingDir."""
        return json.loads(self.buildah("inspect", "--type=image", image))["OCIv1"]["config"]

    def mount(self, image: str) -> Path:
        """The root of a new container of the image, as a directory here."""
        return Path(self.buildah("mount", self.buildah("from", "--pull-never", image)))

    def ask(self, image: str, root: Path, arguments: list[str]) -> int:
        """Runs the image's own command to its end, on a root that is mounted already; its exit code."""
        with Container(self, image, arguments, root=root) as asked:
            return asked.wait()

    def close(self) -> None:
        """Unmounts and removes all that was built."""
        self.buildah("unmount", "--all")
        self.buildah("rm", "--all", seconds=BUILD_SECONDS)
        self.buildah("rmi", "--all", "--force", seconds=BUILD_SECONDS)


# Makes the root read-only but for the manifests' volumes, and becomes the image's user with nothing to gain.
ENTER = """
set -e
mount --bind "$0" "$0"
mount -o remount,bind,ro "$0"
mount -t tmpfs -o mode=1777,size=256m tmpfs "$0/tmp"
mount -t tmpfs -o mode=1777,size=256m tmpfs "$0/artifacts"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
exec setpriv --no-new-privs env -i "$@"
"""


class Container:
    """A process of an image as number 1 of its own namespaces: the image's command, environment and user.

    Its root is read-only but for /tmp and /artifacts, as in the manifests. The network is the machine's.
    """

    def __init__(
        self,
        builder: Builder,
        image: str,
        arguments: list[str],
        *,
        root: Path | None = None,
        entrypoint: list[str] | None = None,
    ) -> None:
        config = builder.config(image)
        user, _, group = config["User"].partition(":")
        root = root or builder.mount(image)
        enter = ["unshare", f"--root={root}", f"--wd={config['WorkingDir']}", f"--setgid={group}"]
        words = [*(config["Entrypoint"] if entrypoint is None else entrypoint), *arguments]
        inside = [*config["Env"], *enter, f"--setuid={user}", "--", *words]
        apart = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        self._command = [*apart, "sh", "-c", ENTER, str(root), *inside]
        self._log = builder.store / f"{secrets.token_hex(6)}.log"

    def __enter__(self) -> "Container":
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(RUN_SECONDS)

    @property
    def pid(self) -> int:
        """The first process of the container, as this machine counts."""
        above = self._process.pid
        return int(Path(f"/proc/{above}/task/{above}/children").read_text().split()[0])

    def wait(self) -> int:
        """The exit code."""
        return self._process.wait(RUN_SECONDS)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Polls. AssertionError with the log when the process ends first, or the time does."""
        until = time.monotonic() + RUN_SECONDS
        while not holds():
            assert self._process.poll() is None and time.monotonic() < until, self.log()
            time.sleep(0.5)

    def stop(self) -> int:
        """SIGTERM to the first process, as Kubernetes stops it; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def status(self, key: str) -> str:
        """A line of the first process's /proc/PID/status, such as "Uid"."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:"))

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")


def pip_settings() -> dict[str, str]:
    """What pip is configured with here that a build needs too; `:env:` outranks the files, as in pip."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=RUN_SECONDS
    ).stdout
    settings: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in PIP_KEYS:
            settings[key] = value.strip("'\"").replace("\\n", " ")
    return settings


def local_paths(values: Iterable[str]) -> list[Path]:
    """Directories and files of this machine that pip's settings name; an index's files lie beside it."""
    words = [word for value in values for word in value.split()]
    paths = [
        Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word)
        for word in words
    ]
    return [path for path in dict.fromkeys(paths) if path.is_absolute() and path.exists()]


def copy_python(tree: Path) -> None:
    """The running Python, its standard library and every shared library that they and the tools load."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary, standard = (
        tree / "usr/local/bin",
        Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})),
    )
    binary.mkdir(parents=True)
    executable = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    shutil.copy2(executable, binary / version)
    (binary / "python3").symlink_to(version)
    leave = shutil.ignore_patterns(
        "site-packages", "dist-packages", "__pycache__", "test", "tests", "config-*"
    )
    shutil.copytree(standard, tree / "usr/local/lib" / version, ignore=leave, symlinks=True)
    (tree / "bin").mkdir()
    tools = [Path(shutil.which(tool) or f"/bin/{tool}").resolve() for tool in TOOLS]
    for name, tool in zip(TOOLS, tools, strict=True):
        shutil.copy2(tool, tree / "bin" / name)
    modules = sorted((tree / "usr/local/lib" / version / "lib-dynload").glob("*.so"))
    for library in loaded_libraries([executable, *tools, *modules]):
        place = tree / "lib64" if library.name.startswith("ld-") else tree / "lib/x86_64-linux-gnu"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library.resolve(), place / library.name)
    for folder in ("tmp", "etc", "proc", "dev", "sys", "run", "var/tmp", "artifacts"):
        (tree / folder).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)


def loaded_libraries(programs: list[Path]) -> list[Path]:
    """What ldd says that programs load, and what compiled wheels expect of any system."""
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, timeout=RUN_SECONDS).stdout
    cached = subprocess.run(
        ["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=RUN_SECONDS
    ).stdout
    found = [
        word for line in said.splitlines() for word in line.split() if word.startswith("/") and ".so" in word
    ]
    found += [
        line.split()[-1]
        for name in (
            *WHEELS_NEED,
            "libnss_dns.so.2",
            "libnss_files.so.2",
            "libresolv.so.2",
            "libpthread.so.0",
        )
        for line in cached.splitlines()
        if line.split()[0] == name and "x86-64" in line
    ]
    paths = (Path(word.rstrip(":")) for word in found)
    return list({path.name: path for path in paths if path.is_file() and path not in programs}.values())
