"""A RabbitMQ node of our own, which tests may stop, kill and alarm: own ports, own folder, own Erlang neighbours."""

import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.support.frozen import freeze, of_group, thaw
from tests.support.planted import leaks

START_SECONDS = 90
TICK_SECONDS = 8
"""Nodes of a cluster take another one to be gone that was silent for so long, or a quarter more."""
SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""The server itself, rather than the wrapper in the path, which insists on being another user."""

LANES: Final = 32
"""Runs of tests beside each other, so many at most, have ports of their own; the upper half is for programs."""

_program = f"gw{LANES // 2 + os.getpid() % (LANES // 2)}"
_lane = int(os.environ.get("PYTEST_XDIST_WORKER", _program).removeprefix("gw")) % LANES
_lane_ports = range(10_000 + _lane, 32_768, LANES)
_ports = itertools.cycle(random.sample(_lane_ports, len(_lane_ports)))


def free_port() -> int:
    """Return a port that nobody listens on, below those that outgoing connections are given: it stays free."""
    for port in itertools.islice(_ports, len(_lane_ports)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is taken")


def installed_version() -> tuple[int, ...]:
    """Return the version of the RabbitMQ that is installed here."""
    folders = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return tuple(map(int, re.findall(r"\d+", folders[-1].name)[:3])) if folders else ()


@dataclass(frozen=True)
class GivenBroker:
    """A broker that is there already, of which only the addresses are known."""

    url: str
    stream_url: str


class PrivateBroker:
    """Starts with ``with``; ``stop`` and ``kill`` leave the data in place for the next ``start``.

    *configuration* is added to its ``rabbitmq.conf``, *environment* to its environment. With *streams* it speaks the
    stream protocol too, on a port of its own. It joins the cluster of *first*, where that is given.
    """

    def __init__(
        self,
        configuration: str = "",
        environment: Mapping[str, str] | None = None,
        *,
        streams: bool = False,
        first: Self | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rabbit-"))
        self.port = free_port()
        self.stream_port = free_port()
        self._first = first
        self.epmd_port: int = free_port() if first is None else first.epmd_port
        self.home: Path = self._folder if first is None else first.home
        """With the cookie by which nodes know each other."""
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        if streams:
            configuration += (
                f"\nstream.listeners.tcp.1 = 127.0.0.1:{self.stream_port}\n"
                f"stream.advertised_host = 127.0.0.1\nstream.advertised_port = {self.stream_port}\n"
            )
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nloopback_users = none\nlog.file.level = warning\n"
            f"{configuration}\n"
        )
        (self._folder / "advanced.config").write_text(f"[{{kernel, [{{net_ticktime, {TICK_SECONDS}}}]}}].\n")
        (self._folder / "enabled_plugins").write_text("[rabbitmq_stream].\n" if streams else "[].\n")
        self._environment = {
            **os.environ,
            "HOME": str(self.home),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        try:
            if self._first is None:
                self._start_epmd()
            self.start()
            if self._first is not None:
                self._join(self._first)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(START_SECONDS)
        found = list(leaks(self._folder))  # all that was ever published durably, and the broker's own log
        shutil.rmtree(self._folder, ignore_errors=True)
        assert not found, found

    def _start_epmd(self) -> None:
        """Start the Erlang name server ourselves: the one that a node starts outlives it and refuses to be stopped."""
        epmd = next(iter(Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), Path("epmd"))
        self._epmd = subprocess.Popen(
            [str(epmd)], env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.epmd_port), timeout=2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError("epmd did not start")

    def _join(self, first: "PrivateBroker") -> None:
        self.ctl("stop_app")
        self.ctl("join_cluster", first.node)
        self.ctl("start_app")
        self._wait_until_it_answers()

    @property
    def node(self) -> str:
        """Its name in the cluster."""
        return f"test{self.port}@localhost"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def stream_url(self) -> str:
        return f"rabbitmq-stream://guest:guest@127.0.0.1:{self.stream_port}/"

    def url_of(self, user: str, password: str) -> str:
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/"

    def start(self) -> None:
        server = SERVER if Path(SERVER).exists() else "rabbitmq-server"
        with (self._folder / "out").open("ab") as log:
            self._process = subprocess.Popen(
                [server],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Ask it to stop, as an administrator would, and wait until it has."""
        assert self._process is not None
        self.ctl("shutdown")
        self._process.wait(START_SECONDS)

    def kill(self) -> None:
        """Take its plug out."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(START_SECONDS)

    def forget_everything(self) -> None:
        """Remove all that it has, once it is not running: the next start is that of a broker just installed."""
        shutil.rmtree(self._folder / "data")

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        assert self._process is not None
        freeze(of_group(self._process.pid))

    def go_on(self) -> None:
        """End ``pause``."""
        assert self._process is not None
        thaw(of_group(self._process.pid))

    def alarm(self) -> None:
        """Raise the memory alarm: publishers are blocked."""
        self.ctl("set_vm_memory_high_watermark", "0.000001")

    def end_alarm(self) -> None:
        self.ctl("set_vm_memory_high_watermark", "0.6")

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against this node, and return what it prints."""
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=START_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _wait_until_it_answers(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"RabbitMQ did not start:\n{(self._folder / 'out').read_text(errors='replace')}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
                    probe.settimeout(5)
                    probe.sendall(b"AMQP\x00\x00\x09\x01")
                    if probe.recv(1) == b"\x01":
                        return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("RabbitMQ did not answer in time")
