"""Network namespaces on a bridge, one for each pod; names by a hosts file that every pod reads.

    with Network("tl4711") as network:
        place = network.join("policy-0")        Place(namespace="tl4711-policy-0", ip="10.77.0.2")
        network.name({"trainer-0.trainer": place.ip})

The bridge has a namespace of its own too, so that nothing of this is seen from the machine, or sees it.
"""

import contextlib
import ctypes
import os
import re
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.0"
FILES = Path("/etc/netns")  # `ip netns exec` lays NAME/hosts over /etc/hosts
CLONE_NEWNET = 0x40000000
SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """Where a pod is."""

    namespace: str
    ip: str
    port: str

    def command(self, words: list[str]) -> list[str]:
        """The words as they run inside; what runs there ends with who started it, however that ends."""
        return ["ip", "netns", "exec", self.namespace, "setpriv", "--pdeathsig", "KILL", *words]


def ip(*words: str) -> None:
    """One command of iproute2. RuntimeError with what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def sweep() -> None:
    """Takes away what killed simulations left: their prefix holds the number of a process that is gone."""
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=SECONDS).stdout
    for line in there.splitlines():
        found = re.match(r"tl(\d+)t?-", line)
        if found and not Path(f"/proc/{found[1]}").exists():
            ip("netns", "del", line.split()[0])
            shutil.rmtree(FILES / line.split()[0], ignore_errors=True)


def missing() -> str:
    """Why no network can be made here, or ""."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces take root and iproute2"
    try:
        sweep()
        with Network(f"tl{os.getpid()}t") as network:
            network.join("probe")
    except (RuntimeError, OSError) as error:
        return f"network namespaces cannot be made: {error}"
    return ""


class Network:
    """A bridge and the namespaces on it; all are gone when the block is left."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.switch = prefix, f"{prefix}-switch"
        self.names: dict[str, str] = {}
        self.places: dict[str, Place] = {}
        self._count = 1

    def __enter__(self) -> "Network":
        ip("netns", "add", self.switch)
        try:
            ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
            ip("-n", self.switch, "link", "set", "br0", "up")
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pod in list(self.places):
            self.leave(pod)
        with contextlib.suppress(RuntimeError):
            ip("netns", "del", self.switch)

    def join(self, pod: str) -> Place:
        """A namespace for a pod, with an address that no pod had before."""
        self._count += 1
        place = Place(f"{self.prefix}-{pod}", f"{NETWORK}.{self._count}", f"v{self._count}")
        ip("netns", "add", place.namespace)
        self.places[pod] = place
        self._write_hosts(place)
        there = ("netns", place.namespace)
        ip("link", "add", "eth0", *there, "type", "veth", "peer", "name", place.port, "netns", self.switch)
        ip("-n", self.switch, "link", "set", place.port, "master", "br0", "up")
        ip("-n", place.namespace, "addr", "add", f"{place.ip}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", place.namespace, "link", "set", device, "up")
        return place

    def leave(self, pod: str) -> None:
        """Takes a pod's namespace away, and its address with it."""
        place = self.places.pop(pod)
        with contextlib.suppress(RuntimeError):
            ip("-n", self.switch, "link", "del", place.port)
        with contextlib.suppress(RuntimeError):
            ip("netns", "del", place.namespace)
        shutil.rmtree(FILES / place.namespace, ignore_errors=True)

    def name(self, names: dict[str, str]) -> None:
        """What names stand for from now on, in every pod."""
        self.names |= names
        for place in self.places.values():
            self._write_hosts(place)

    def listen(self, place: Place, port: int) -> socket.socket:
        """A socket that listens in a pod's namespace and is served from here."""
        made: list[socket.socket] = []

        def enter() -> None:
            # This thread alone moves; a socket stays where it was made.
            with open(f"/run/netns/{place.namespace}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    return
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((place.ip, port))
            made.append(listener)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if not made:
            raise RuntimeError(f"cannot listen in {place.namespace}")
        return made[0]

    def _write_hosts(self, place: Place) -> None:
        folder = FILES / place.namespace
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.names.items())]
        # In place: a pod has this very file mounted.
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        (folder / "resolv.conf").touch()
