"""The place of a run: a PBX, a broker, a bridge between them, proxies on its connections, and consumers."""

import asyncio
import shlex
import shutil
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg

from bridge.broker.connection import connect
from bridge.broker.declare import declare
from bridge.broker.stream.publisher import provide_log
from bridge.broker.topology import Topology
from bridge.events.normalize import Rules, read_account
from bridge.model import WINDOW_ROWS, AccountGuid, Cursor, Row, Sink, SourceName
from bridge.pbx.inbound.identity import Identity
from bridge.simulator.pbx import Pbx
from bridge.simulator.people import build_info
from bridge.simulator.server import keep_calling, serve
from tests.chaos.appliers import Applier, SqliteEffects, TextEffects, inbox_program
from tests.chaos.errors import CannotRunError, StandstillError
from tests.chaos.faults import Link
from tests.chaos.readers import LogReader, QueueReader, Reader, comparable
from tests.chaos.servers import Servers
from tests.chaos.stores import DatabaseStore, FileStore, KeptStore
from tests.support.postgres import is_installed
from tests.support.process import Command, run
from tests.support.proxy import Proxy
from tests.support.rabbit import SERVER, PrivateBroker, free_port

ACCOUNTS = 1000
BRANCH_ACCOUNTS = 200
PASSWORD = "ch4os-s3cret"
SOURCE = "hq"
BRANCH = "branch"
EXCHANGE = "pbx.accounts"
ROOT = Path(__file__).parents[2]
CLOCK = Path(__file__).parent / "clock"
HEARTBEAT_SECONDS = 2
ANSWER_SECONDS = 2
WALK_SECONDS = 240
"""For a walk that was asked for: it is slow where answers are late, and begins anew where a connection breaks."""
KEEP_MINUTES = 3
"""How long the bridge keeps what is published: so short that it also forgets while all this goes on."""

START_AGAIN = "start the bridge again"
REDIAL_SECONDS = 0.2
LOOK_SECONDS = 0.02

REMEMBER = 1000
"""What the pretend PBX keeps for looking back, of which nobody makes use here."""

# What Python compiles it may keep, or every start of a process would compile everything once more.
PROCESSES = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(ROOT)}


class Site:
    """Everything that runs; the bridge, the broker and the consumers may be stopped and started."""

    def __init__(  # noqa: PLR0913, PLR0917 - whatever there is
        self,
        folder: Path,
        broker: PrivateBroker,
        pbxs: Sequence[Pbx],
        links: dict[Link, Proxy],
        ports: Sequence[int],
        database: Servers | None = None,
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.pbx, self.branch = pbxs
        """One that the bridge dials, and one that dials it."""
        self.pbxs = {SourceName(SOURCE): self.pbx, Identity(self.branch.domain, BRANCH).source: self.branch}
        """Both, by the names of their sources."""
        self.links = links
        self.database = database
        """The servers of the store, where that is no file."""
        self._store: KeptStore = (
            FileStore(folder) if database is None else DatabaseStore(database, folder, is_shared=len(ports) > 1)
        )
        self.readers: list[Reader] = []
        self.appliers: list[Applier] = []
        self._kinds: dict[str, str] = {}
        """Queues, and of what type each is."""
        self.faults = 0
        self.restarts = 0
        """Of bridges that found themselves on another state of their store, and said so."""
        self._ports = dict(enumerate(ports, 1))
        """Where each bridge listens for PBXs that dial, by its number."""
        self._usual = len(ports)
        """So many bridges there are where none was added."""
        for number in self._ports:
            self._set_clock(number, 0)
        self._bridges: dict[int, Command] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._environment = {
            **PROCESSES,
            "BRIDGE_FLEET_PBX_DIR": str(folder / "pbxs"),
            "BRIDGE_RABBITMQ_URL": f"amqp://guest:guest@127.0.0.1:{links[Link.BROKER].port}/?heartbeat={HEARTBEAT_SECONDS}",
            "BRIDGE_RABBITMQ_EXCHANGE": EXCHANGE,
            **self._store.environment,
            "BRIDGE_LISTEN_HOST": "127.0.0.1",
            "BRIDGE_LISTEN_APP_NAME": self.branch.app,
            "BRIDGE_LISTEN_APP_PASSWORD": self.branch.password,
            "BRIDGE_LISTEN_POLL_INTERVAL_SECONDS": "0.1",
            "BRIDGE_LISTEN_ANSWER_TIMEOUT_SECONDS": f"{ANSWER_SECONDS}",
            "BRIDGE_STATUS_ENABLED": "false",
            "BRIDGE_WALK_NIGHTLY_AT": "never",
            "BRIDGE_LOG_FORMAT": "json",
            "BRIDGE_REPLAY_KEEP_DAYS": str(KEEP_MINUTES / 24 / 60),
        }
        (folder / "pbxs").mkdir()
        self.configure(WINDOW_ROWS)
        self._topology = Topology(EXCHANGE)
        if Link.LOG in links:
            url = f"rabbitmq-stream://guest:guest@127.0.0.1:{links[Link.LOG].port}/"
            self._environment["BRIDGE_RABBITMQ_STREAM_URL"] = url
            self._topology = Topology(EXCHANGE, log_partitions=1)

    def configure(self, ask_ahead: int | None) -> None:
        """Write down that the bridge follows the PBX, and so many rows ahead; ``None``: that it does not."""
        file = self.folder / "pbxs" / f"{SOURCE}.toml"
        if ask_ahead is None:
            file.unlink()
            return
        file.write_text(
            f'url = "ws://127.0.0.1:{self.links[Link.PBX].port}"\napp = "{self.pbx.app}"\n'
            f'password = "{self.pbx.password}"\nask_ahead = {ask_ahead}\npoll_interval_seconds = 0.1\n'
            f"answer_timeout_seconds = {ANSWER_SECONDS}\n"
        )

    def fault(self) -> int:
        """Return how many faults there have been."""
        return self.faults

    @property
    def is_shared(self) -> bool:
        """True where several bridges share the store."""
        return len(self._ports) > 1

    @property
    def is_running(self) -> bool:
        """True while any bridge is."""
        return bool(self._bridges)

    def hang_up(self) -> None:
        """Have all bridges read their configuration again; one that was just started may not listen yet."""
        for bridge in self._bridges.values():
            if _listens(bridge):
                bridge.hang_up()

    @property
    def bridge(self) -> Command:
        """The bridge; of several the one that has the PBX, or had it last."""
        return self._bridges[self._acting]

    @property
    def _acting(self) -> int:
        return self._acting_for(SOURCE)

    def _acting_for(self, source: str) -> int:
        assert self._bridges, "the bridge was started"
        holder = self._holder_of(source) if self.is_shared else None
        of_process = {bridge.number: number for number, bridge in self._bridges.items()}
        return of_process.get(holder or 0, min(self._bridges))

    @property
    def holder(self) -> int | None:
        """The process of the bridge that has the PBX that is dialled, if one has it."""
        return self._holder_of(SOURCE)

    def _holder_of(self, source: str) -> int | None:
        if self.database is None:
            return None
        found = f"""SELECT bridge.name FROM source JOIN bridge ON bridge.id = holder
            WHERE NOT is_over AND source.name = '{source}'"""  # noqa: S608 - a name of ours
        try:
            rows = self.database.primary.run(found, "bridge")
        except psycopg.Error:  # it is away, or has no tables yet
            return None
        return int(str(rows[0][0]).rsplit(" ", 1)[1]) if rows else None

    def start_bridge(self) -> None:
        """Start the bridge, or all of them that do not run."""
        for number in self._ports:
            if number not in self._bridges:
                environment = self._environment | self._own(number)
                self._bridges[number] = Command("run", environment=environment, cwd=self.folder)

    @property
    def has_one_more(self) -> bool:
        """True while there is a bridge that was added."""
        return len(self._ports) > self._usual

    def add_bridge(self) -> None:
        """Start one bridge more; no PBX dials it."""
        number = self._usual + 1
        self._ports[number] = free_port()
        self._set_clock(number, 0)
        self.start_bridge()

    @property
    def is_begun(self) -> bool:
        """True where every bridge listens to signals."""
        return all(_listens(bridge) for bridge in self._bridges.values())

    def remove_bridge(self) -> int:
        """Stop that one, and return its exit code."""
        number, _ = self._ports.popitem()
        return self._end(number, is_killed=False)

    def _own(self, number: int) -> dict[str, str]:
        """Return what only the bridge of that number is told: its clock, its port, the folder of its socket."""
        own = {
            "PYTHONPATH": f"{CLOCK}:{ROOT}",
            "CHAOS_CLOCK": str(self._clock(number)),
            "BRIDGE_LISTEN_PORT": str(self._ports[number]),
        }
        if self.is_shared and self.database is not None:
            folder = self.database.runtime / str(number)
            folder.mkdir(exist_ok=True)
            own["XDG_RUNTIME_DIR"] = str(folder)
        return own

    def _clock(self, number: int) -> Path:
        return self.folder / f"clock-{number}"

    def _set_clock(self, number: int, seconds: float) -> None:
        with self._clock(number).open("r+b" if self._clock(number).exists() else "wb") as clock:
            clock.write(struct.pack("d", seconds))

    def set_clock(self, seconds: float) -> None:
        """Set the clock of the bridge that acts so many seconds before or behind the time."""
        self._set_clock(self._acting, seconds)

    def end_bridge(self, *, is_killed: bool) -> int:
        """End the bridge that acts, one way or the other, keep its last words, and return its exit code."""
        return self._end(self._acting, is_killed=is_killed)

    def end_bridges(self, *, is_killed: bool) -> int:
        """End all of them, and return the highest exit code."""
        return max([self._end(number, is_killed=is_killed) for number in list(self._bridges)], default=0)

    def _end(self, number: int, *, is_killed: bool) -> int:
        bridge = self._bridges.pop(number)  # at once: nobody is to take it for one that ended by itself
        if is_killed:
            bridge.go_on()
            bridge.kill()
        code = bridge.wait() if is_killed else bridge.terminate()
        name = f"bridge-{number}.log" if self.is_shared else "bridge.log"
        with (self.folder / name).open("a", encoding="utf-8") as log:
            log.write(bridge.printed + "\n")
        return code

    def pause_bridges(self) -> int:
        """Freeze all that run, and return how many."""
        for bridge in self._bridges.values():
            bridge.pause()
        return len(self._bridges)

    def let_bridges_go_on(self) -> None:
        """End that."""
        for bridge in self._bridges.values():
            bridge.go_on()

    def start_ended(self) -> int:
        """Start bridges again that ended by themselves, as whoever looks after them does, and return how many."""
        ended = [number for number, bridge in self._bridges.items() if not bridge.is_running]
        for number in ended:
            self._end(number, is_killed=True)
        self.start_bridge()
        return len(ended)

    def copy_store(self) -> Path:
        """Copy the store while the bridge goes on, as an operator would."""
        return self._store.copy(self._environment | self._own(1), self.faults)

    def waiting_in_store(self) -> Mapping[Sink, int]:
        """Return how many events wait in the store for each sink, while no bridge has it."""
        return {sink: self._store.waiting(sink) for sink in Sink}

    def replace_store(self, copy: Path | None) -> None:
        """Put *copy* in the place of the store, or nothing."""
        self._store.replace(copy, self.faults)

    async def empty_broker(self) -> None:
        """Kill the broker, remove all that it has, start it and declare what consumers need."""
        await asyncio.to_thread(self.broker.kill)
        await asyncio.to_thread(self.broker.forget_everything)
        await asyncio.to_thread(self.broker.start)
        for reader in self.readers:
            reader.begin_anew()
        await self._declare_queues()

    def check(self) -> None:
        """Look whether everything lives that should; who asks to be started again is, as everywhere.

        Raises:
            StandstillError: the bridge or a consumer of ours ended by itself.

        """
        for number, bridge in list(self._bridges.items()):
            if not bridge.is_running:
                self._end(number, is_killed=True)
                if START_AGAIN not in bridge.printed.lower():
                    raise StandstillError(f"the bridge ended by itself: {bridge.printed.splitlines()[-1:]}")
                self.restarts += 1
                self.start_bridge()
        for applier in self.appliers:
            applier.check()
        for task in self._tasks:
            if task.done():
                task.result()

    def truth(self) -> dict[str, bytes]:
        """Return what should be told of every account of the PBX."""
        told = {}
        for pbx in self.pbxs.values():
            for guid, record in pbx.truth().items():
                info = build_info(record, pbx.modes.shape, domain=pbx.domain, pbx=pbx.name)
                row = Row(Cursor(), AccountGuid(guid), record.h323, info)
                told[guid] = comparable(read_account(row, None, Rules(key=b"")))
        return told

    def walk(self, source: str = SOURCE) -> None:
        """Have the bridge read the whole list of a PBX once more, as an operator would, and wait until it is over.

        Raises:
            StandstillError: the bridge did not take the wish.

        """
        number = self._acting_for(source)
        bridge = self._bridges[number]
        walks = len(_verified(bridge, source))
        environment = self._environment | self._own(number)
        code, asked = run("resync", source, "--accept-deletions", environment=environment, cwd=self.folder)
        if code:
            raise StandstillError(f"the bridge does not walk when asked to: {asked.printed}")
        until = time.monotonic() + WALK_SECONDS
        while len(_verified(bridge, source)) == walks:
            if time.monotonic() > until or not bridge.is_running:
                raise StandstillError(f"{source} was not walked within {WALK_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    async def waiting(self) -> int:
        """Return how many messages wait in all queues."""
        async with connect([self.broker.url], client_name="chaos") as connection, asyncio.timeout(30):
            channel = await connection.channel()
            found = [await channel.declare_queue(queue, passive=True) for queue in self._kinds]
            return sum(queue.declaration_result.message_count or 0 for queue in found)

    async def _declare(self) -> None:
        """Make exchange, log and queues, and let the broker write them down in peace.

        A queue with a log of its own (quorum, stream) that was declared seconds before its node is killed may not
        come back at all with RabbitMQ 3.10; that is not what is tried here.
        """
        await self._declare_queues()
        await asyncio.to_thread(self.broker.stop)
        await asyncio.to_thread(self.broker.start)

    async def _declare_queues(self) -> None:
        async with connect([self.broker.url], client_name="chaos") as connection:
            await declare(connection, self._topology)
            if Link.LOG in self.links:
                await provide_log(connection, self._topology, is_declaring=True)
            channel = await connection.channel()
            for queue, kind in self._kinds.items():
                # No delivery limit: every end of a connection would count. One consumer at a time keeps order.
                made = await channel.declare_queue(
                    queue, durable=True, arguments={"x-queue-type": kind, "x-single-active-consumer": True}
                )
                await made.bind(EXCHANGE, "#")

    async def begin(self, kinds: Sequence[str], also: str | None) -> None:
        """Declare everything and start everything."""
        uses = ["plain", "inbox"] + ["also"] * (also is not None)
        self._kinds = {f"{EXCHANGE}.{kind}.{use}": kind for kind in kinds for use in uses}
        await self._declare()
        for kind in kinds:
            self.readers.append(QueueReader(f"{kind}.plain", self.broker.url, f"{EXCHANGE}.{kind}.plain", self.fault))
            path = self.folder / f"{kind}.inbox.db"
            self.appliers.append(self._applier(kind, "inbox", inbox_program(), path))
            if also is not None:
                path = self.folder / f"{kind}.also.txt"
                self.appliers.append(self._applier(kind, "also", shlex.split(also), path))
        if Link.LOG in self.links:
            self.readers.append(LogReader("log", self.broker.url, self._topology.log, self.fault))
        for reader in self.readers:
            self._tasks.append(asyncio.create_task(reader.run(), name=reader.name))
        for applier in self.appliers:
            applier.start()
        self.start_bridge()
        url = f"ws://127.0.0.1:{self.links[Link.DIALLED].port}/pbx"
        calling = keep_calling(self.branch, url, pause_seconds=REDIAL_SECONDS)
        self._tasks.append(asyncio.create_task(calling, name="the PBX that dials"))

    def _applier(self, kind: str, use: str, program: Sequence[str], path: Path) -> Applier:
        environment = {
            "CHAOS_AMQP_URL": self.broker.url,
            "CHAOS_QUEUE": f"{EXCHANGE}.{kind}.{use}",
            "CHAOS_EFFECTS": str(path),
        }
        is_ours = use == "inbox"
        return Applier(
            f"{kind}.{use}",
            program,
            {**(PROCESSES if is_ours else {}), **environment},
            SqliteEffects(path) if is_ours else TextEffects(path),
            cwd=ROOT if is_ours else Path.cwd(),
            fault=self.fault,
            is_supervised=not is_ours,
        )

    async def end(self) -> None:
        """End everything that still runs."""
        for applier in self.appliers:
            await asyncio.to_thread(applier.kill)
        await asyncio.to_thread(self.end_bridges, is_killed=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _listens(bridge: Command) -> bool:
    return bool(bridge.logs("broker.state"))


def _verified(bridge: Command, source: str) -> Sequence[Mapping[str, object]]:
    return [line for line in bridge.logs("source.verified") if line["source"] == source]


@asynccontextmanager
async def built(  # noqa: PLR0913 - what there may be
    folder: Path,
    *,
    seed: int,
    kinds: Sequence[str],
    also: str | None,
    is_log_native: bool,
    is_store_a_database: bool,
    is_standby_synchronous: bool = True,
    bridges: int = 1,
) -> AsyncIterator[Site]:
    """Build everything and start it; what runs is ended behind the caller.

    With *is_log_native* the bridge writes the log by the stream protocol, and a reader of the log is there too. With
    *is_store_a_database* its store is in PostgreSQL, where several *bridges* may share it, and whose standbys are
    synchronous with *is_standby_synchronous*.

    Raises:
        CannotRunError: RabbitMQ or PostgreSQL cannot be started.

    """
    if not Path(SERVER).exists() and shutil.which("rabbitmq-server") is None:
        raise CannotRunError(
            "RabbitMQ is needed (the command rabbitmq-server); on Debian: apt-get install rabbitmq-server"
        )
    pbx, branch = (
        Pbx(accounts=accounts, seed=seed + number, password=PASSWORD, name=name, remember=REMEMBER)
        for number, (name, accounts) in enumerate(((SOURCE, ACCOUNTS), (BRANCH, BRANCH_ACCOUNTS)))
    )
    ports = [free_port() for _ in range(bridges)]
    broker = PrivateBroker(streams=is_log_native)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(broker.__enter__)
        stack.push(broker)
        served = await stack.enter_async_context(serve(pbx))
        links = {
            Link.BROKER: await stack.enter_async_context(Proxy(broker.port, seed=seed)),
            Link.PBX: await stack.enter_async_context(Proxy(served.port, seed=seed)),
            Link.DIALLED: await stack.enter_async_context(Proxy(*ports, seed=seed)),
        }
        if is_log_native:
            links[Link.LOG] = await stack.enter_async_context(Proxy(broker.stream_port, seed=seed))
        database = None
        if is_store_a_database:
            if not is_installed():
                raise CannotRunError("PostgreSQL is needed; on Debian: apt-get install postgresql")
            database = Servers(links, is_synchronous=is_standby_synchronous)
            await asyncio.to_thread(stack.enter_context, database)
            await database.open_ways(stack, seed)
        site = Site(folder, broker, (pbx, branch), links, ports, database)
        stack.push_async_callback(site.end)
        await site.begin(kinds, also)
        yield site
