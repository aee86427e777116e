"""What goes wrong, by name: each fault strikes at random times, and ends by itself.

A seed chooses which ones it has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from controller.core.model import codec
from controller.core.model.installation import decode_engine, encode
from controller.core.model.op import Op
from controller.core.model.resources import ZERO, Vector
from controller.core.model.schedules import ATTESTED, KIND, STATES
from controller.core.model.task import AttemptId
from controller.errors import CorruptValue
from tests.simulation.network import Link, Server
from tests.simulation.oracle import USER
from tests.simulation.poison import POINTS

if TYPE_CHECKING:
    from tests.simulation.simulation import Computer, Simulation

FAULTS: dict[str, tuple[float, str]] = {
    # name: (mean seconds between two of them, what strikes)
    "crash": (6.0, "crash"),
    "crash-all": (12.0, "crash_all"),
    "crash-leader-on-write": (5.0, "crash_on_write"),
    "endpoint": (2.0, "trouble_endpoint"),
    "endpoints-flap": (6.0, "flap_endpoints"),
    "stop": (10.0, "stop"),
    "pause": (6.0, "pause"),
    "pause-leader-on-write": (6.0, "pause_on_write"),
    "loop-hangs": (10.0, "hang_loop"),
    "clock-rate": (8.0, "change_rate"),
    "clock-jump": (8.0, "jump_wall_clock"),
    "etcd-cut": (8.0, "cut_etcd"),
    "etcd-lossy": (10.0, "lose_at_etcd"),
    "etcd-late": (10.0, "delay_at_etcd"),
    "watch-stalled": (8.0, "stall_watch"),
    "etcd-late-commit": (4.0, "hold_up_commit"),
    "etcd-outage": (15.0, "etcd_outage"),
    "etcd-full": (12.0, "fill_etcd"),
    "compaction": (3.0, "compact"),
    "leader-key": (10.0, "meddle_with_leader_key"),
    "lease-revoked": (10.0, "revoke_lease"),
    "damage": (4.0, "damage"),
    "foreign": (8.0, "write_foreign_values"),
    "ledger-lowered": (6.0, "lower_ledger"),
    "engine-cut": (8.0, "cut_engine"),
    "engine-lossy": (8.0, "lose_at_engine"),
    "engine-late": (4.0, "delay_at_engine"),
    "engine-late-start": (3.0, "hold_up_start"),
    "engine-outage": (12.0, "engine_outage"),
    "engine-refuses": (12.0, "refuse"),
    "node-lost": (4.0, "lose_node"),
    "removed-by-hand": (2.0, "remove_attempt"),
    "unlisted": (4.0, "unlist_attempt"),
    "made-by-hand": (5.0, "forge_attempt"),
    "other-engine": (4.0, "change_engine"),
    "engine-adopted": (8.0, "adopt_engine"),
    "engine-misled": (5.0, "mislead"),
    "identity-deleted": (6.0, "delete_identity"),
    "other-installation": (4.0, "settle_in"),
    "poison": (5.0, "poison"),
    "share-edited": (5.0, "edit_share"),
}
OF_SHARING = frozenset({"share-edited"})
"""Those that strike only where pools are shared."""


class Faults:
    """Strikes with the named faults until `end`, which undoes all that has not ended yet."""

    def __init__(self, simulation: Simulation, names: list[str]) -> None:
        self.simulation = simulation
        self.scheduler = simulation.scheduler
        self.names = names
        self._ended = False
        self._undo: dict[int, Callable[[], object]] = {}
        self._undos = 0
        self._on_write: Callable[[Computer], None] | None = None
        self._on_user: Callable[[], None] | None = None

    def begin(self) -> None:
        """From now on things go wrong."""
        self.simulation.oracle.wall_spread = 30.0 if "clock-jump" in self.names else 0.0
        # Clocks of different rates drift apart, however little.
        self.simulation.oracle.wall_spread += 5.0 if "clock-rate" in self.names else 0.0
        for name in self.names:
            self._schedule(name)

    def end(self) -> None:
        """Nothing goes wrong any more, and what is wrong is mended."""
        self._ended = True
        self._on_write = self._on_user = None
        self.simulation.etcd.holds_up = self.simulation.engine.holds_up = ""
        self.simulation.engine.removes_restarted = False
        for undo in list(self._undo.values()):
            undo()
        self._undo.clear()
        for pool, amount in self.simulation.oracle.amiss.items():
            self._add_to_ledger(pool, ZERO - amount)  # rubbish may have hidden it when it was to be put right
        for computer in self.simulation.computers:
            computer.machine.paused_until = self.scheduler.now
            computer.machine.set_rate(1.0)
            if computer.process is not None:
                computer.process.fibers[0].hangs_until = self.scheduler.now
            if computer.engine is not self.simulation.engine:
                computer.engine = self.simulation.engine
                computer.crash()
            computer.start()

    def wrote(self, process_name: str) -> None:
        """Somebody's transaction was applied; its answer is still on its way."""
        if process_name == USER:
            strike, self._on_user = self._on_user, None
            if strike is not None:
                self.scheduler.after(self.scheduler.rng.random() * 0.02, strike)
            return
        if self._on_write is None:
            return
        for computer in self.simulation.computers:
            if computer.process is not None and computer.process.name == process_name:
                self.scheduler.after(
                    self.scheduler.rng.random() ** 2 * 0.05, partial(self._on_write, computer)
                )
                self._on_write = None
                return

    # -- replicas
    # ----------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """kill -9 of one."""
        self._any().crash()

    def crash_all(self) -> None:
        """kill -9 of all."""
        for computer in self.simulation.computers:
            computer.crash()

    def crash_on_write(self) -> None:
        """kill -9 of the next that writes, somewhere between its commit, its effects and what follows."""
        self._on_write = lambda computer: computer.crash()

    def stop(self) -> None:
        """SIGTERM."""
        self._any().stop()

    def pause(self) -> None:
        """SIGSTOP for longer than the lease, or only for a moment."""
        self._pause(self._any())

    def pause_on_write(self) -> None:
        """SIGSTOP of the next that writes."""
        self._on_write = self._pause

    def hang_loop(self) -> None:
        """The control loop's thread hangs, while the thread that keeps the lease goes on."""
        process = self._any().process
        if process is not None and process.alive:
            seconds = self.scheduler.rng.random() * 3 * self.simulation.timings.lease_ttl_seconds
            process.fibers[0].hangs_until = self.scheduler.now + seconds

    def change_rate(self) -> None:
        """A clock runs fast or slow, by less than the margin allows for."""
        self._any().machine.set_rate(1 + (self.scheduler.rng.random() - 0.5) * 0.08)

    def trouble_endpoint(self) -> None:
        """A status endpoint is lost while its replica, rather the leader, lives on; or hangs up; or falls
        silent.
        """
        endpoints, machine = self.simulation.endpoints, self._any().machine.name
        how = self.scheduler.rng.choice(("lost", "lost", "silent", "hangs up", "hangs up and falls silent"))
        self.scheduler.note(f"the endpoint of {machine}: {how}")
        if how.startswith("hangs up"):
            endpoints.hang_up(machine)
        if how == "lost":
            self._for_a_while(endpoints.lose(machine), 2.0)
        elif how.endswith("silent"):
            self._for_a_while(endpoints.silence(machine), 2.0)

    def flap_endpoints(self) -> None:
        """Whoever leads loses its endpoint for a moment, again and again."""
        ends_at = self.scheduler.now + 2 + self.scheduler.rng.random() * 10

        def again() -> None:
            if self._ended or self.scheduler.now > ends_at:
                return
            for computer in self.simulation.computers:
                if computer.is_leading:
                    self._for_a_while(self.simulation.endpoints.lose(computer.machine.name), 0.5)
            self.scheduler.after(self.scheduler.rng.random(), again)

        again()

    def jump_wall_clock(self) -> None:
        """Somebody sets a wall clock."""
        self._any().machine.wall_offset = (self.scheduler.rng.random() - 0.5) * 30

    # -- etcd
    # --------------------------------------------------------------------------------------------------------

    def cut_etcd(self) -> None:
        """One replica is cut off from etcd: refused, into silence, or deaf."""
        self._cut(self.simulation.etcd)

    def lose_at_etcd(self) -> None:
        """Requests and answers of one replica are lost, each with some probability."""
        self._lose(self.simulation.etcd)

    def delay_at_etcd(self) -> None:
        """Requests and answers of one replica are slow, and some very late."""
        self._delay(self.simulation.etcd)

    def hold_up_commit(self) -> None:
        """One transaction arrives when its sender has long sent another copy, or has given up."""
        self.simulation.etcd.holds_up = self.scheduler.rng.choice(("commit", "commit log/"))

    def stall_watch(self) -> None:
        """A watch falls silent while all else is answered."""
        link = self.simulation.etcd.link(self._any().machine)
        link.stalled = True
        self._for_a_while(lambda: _mend(link))

    def etcd_outage(self) -> None:
        """No quorum for a while; the new etcd leader then extends all leases."""
        etcd = self.simulation.etcd
        etcd.up = False

        def undo() -> None:
            etcd.up = True
            etcd.extend_leases()

        self._for_a_while(undo)

    def fill_etcd(self) -> None:
        """Out of space: nothing can be put."""
        etcd = self.simulation.etcd
        etcd.full = True
        self._for_a_while(lambda: setattr(etcd, "full", False))

    def compact(self) -> None:
        """History goes, up to now or a little before."""
        etcd = self.simulation.etcd
        revision = etcd.revision - self.scheduler.rng.choice((0, 1, 5, 20))
        if revision > etcd.store._server.compacted:
            etcd.compact(revision)

    def meddle_with_leader_key(self) -> None:
        """Somebody deletes the leader key, or writes over it."""
        keys, users = self.simulation.keys, self.simulation.users
        if self.scheduler.rng.random() < 0.5:
            users.delete(keys.leader)
        else:
            users.put_bytes(keys.leader, b'{"id":"somebody"}')

    def revoke_lease(self) -> None:
        """An operator revokes the leader's lease, perhaps while its watch is silent."""
        if self.scheduler.rng.random() < 0.5:
            self.stall_watch()
        etcd = self.simulation.etcd
        lease = etcd.lease_of(self.simulation.keys.leader)
        if lease:
            self.scheduler.note("the leader's lease is revoked")
            etcd.do(lambda store: store.revoke(lease, deadline=1e18), "user")

    def damage(self) -> None:
        """Somebody writes rubbish over a status or a ledger, or where a status is to come, and later puts
        it right again.
        """
        keys, users, oracle = self.simulation.keys, self.simulation.users, self.simulation.oracle
        prefixes = [keys.state(""), keys.ledger(""), keys.ledger(""), keys.attested(""), ""]
        if oracle.shares is not None:
            prefixes += [f"{keys.prefix}shares/", f"{keys.prefix}claims/"]
        if not oracle.schedules.is_off:
            kinds = (KIND, STATES, STATES, ATTESTED)
            prefixes += [f"{keys.prefix}{kind}/" for kind in kinds]
        prefix = self.scheduler.rng.choice(prefixes)
        candidates = [key for key in oracle.values if prefix and key.startswith(prefix)]
        if not prefix:
            candidates = [
                key for task in oracle.unfinished() if (key := keys.state(task)) not in oracle.values
            ]
        if not candidates:
            return
        key = self.scheduler.rng.choice(candidates)

        def strike() -> None:
            value = oracle.values.get(key)
            if value == RUBBISH or (value is None) is bool(prefix) or self._ended:
                return
            users.put_bytes(key, RUBBISH)

            def undo() -> None:
                if oracle.values.get(key) == RUBBISH:
                    users.put_bytes(key, value) if value is not None else users.delete(key)

            self._for_a_while(undo)

        if self.scheduler.rng.random() < 0.5:
            strike()
        else:
            self._on_user = strike  # while a leader is about to act upon it

    def lower_ledger(self) -> None:
        """Somebody writes a ledger that says less than is held, and later puts it right."""
        pool = self.scheduler.rng.choice(("default", "spare"))
        wrong = Vector({"cpu": 1000 * self.scheduler.rng.randint(1, 5)})
        if self._add_to_ledger(pool, ZERO - wrong):
            self._for_a_while(lambda: self._add_to_ledger(pool, wrong))

    def _add_to_ledger(self, pool: str, amount: Vector) -> bool:
        """False if it cannot be read, or is not there."""
        key = self.simulation.keys.ledger(pool)
        try:
            held, extras = codec.decode_ledger(self.simulation.oracle.values.get(key, RUBBISH))
        except CorruptValue:
            return False
        self.simulation.users.put_bytes(key, codec.encode_ledger(held + amount, Op("by hand"), extras))
        return True

    def edit_share(self) -> None:
        """Somebody edits or deletes a share, and sometimes touches the ledger as well, later."""
        keys, users, oracle = self.simulation.keys, self.simulation.users, self.simulation.oracle
        if oracle.shares is None or not oracle.shares.shares:
            return
        rng = self.scheduler.rng
        pool, owner = rng.choice(sorted(oracle.shares.shares))
        value = oracle.values.get(keys.share(pool, owner))
        if value in (None, RUBBISH):
            return
        if rng.random() < 0.2:
            users.delete(keys.share(pool, owner))
        else:
            share = codec.decode_mapping(value)
            share |= {"held": {"cpu": f"{rng.randint(0, 3)}"}, "running": rng.randint(0, 3)}
            if rng.random() < 0.5:  # more than was used, or less than it was
                share |= {rng.choice(("lost", "stopping")): {"cpu": f"{rng.choice((0, 5, 10**15))}"}}
            users.put_bytes(keys.share(pool, owner), codec.encode(share))
        if rng.random() < 0.2:
            self._for_a_while(lambda: self._touch_ledger(pool), longest=6.0)

    def _touch_ledger(self, pool: str) -> None:
        """Have the shares of the pool rebuilt; later, if it cannot be read now."""
        if not self._add_to_ledger(pool, ZERO) and not self._ended:
            self._for_a_while(lambda: self._touch_ledger(pool), longest=2.0)

    def write_foreign_values(self) -> None:
        """Rubbish and unknown keys where nothing of ours stands; taken away in the end."""
        keys, users, rng = self.simulation.keys, self.simulation.users, self.scheduler.rng
        n = rng.randint(1, 3)
        key = rng.choice(
            (
                f"{keys.prefix}what/{n}",
                keys.state(f"foreign{n}"),
                keys.task(f"foreign{n}"),
                keys.request(f"t{n}", "dance"),
            )
        )
        rubbish = rng.choice((b"", b"{", b'{"version":9}', RUBBISH))
        if f"foreign{n}" in self.simulation.oracle.accepted and "foreign" in key:
            return  # somebody has taken the name, once it was free again
        users.put_bytes(key, rubbish)
        self._for_a_while(lambda: users.delete(key))

    # -- the engine
    # --------------------------------------------------------------------------------------------------

    def cut_engine(self) -> None:
        """One replica is cut off from the engine."""
        self._cut(self.simulation.engine)

    def lose_at_engine(self) -> None:
        """Requests and answers between one replica and the engine are lost."""
        self._lose(self.simulation.engine)

    def delay_at_engine(self) -> None:
        """Requests and answers between one replica and the engine are slow, and some very late."""
        self._delay(self.simulation.engine)

    def hold_up_start(self) -> None:
        """One creation arrives when its sender has long given up."""
        self.simulation.engine.holds_up = "start"

    def engine_outage(self) -> None:
        """The engine answers nobody."""
        engine = self.simulation.engine
        engine.up = False
        self._for_a_while(lambda: setattr(engine, "up", True))

    def refuse(self) -> None:
        """A quota refuses all starts for a while."""
        engine = self.simulation.engine
        engine.refusing = True
        self._for_a_while(lambda: setattr(engine, "refusing", False))

    def lose_node(self) -> None:
        """Nobody knows what becomes of one attempt."""
        live = [
            attempt
            for attempt in self.simulation.engine.attempts.values()
            if attempt.live and not attempt.node_lost
        ]
        if live:
            self.simulation.engine.lose_node(
                self.scheduler.rng.choice(live), self.scheduler.rng.random() * 20
            )

    def remove_attempt(self) -> None:
        """Somebody deletes an attempt behind the engine's back."""
        attempts = list(self.simulation.engine.attempts.values())
        waiting = [attempt for attempt in attempts if not attempt.ended and not attempt.live]
        live = [attempt for attempt in attempts if attempt.live]
        candidates = self.scheduler.rng.choice((waiting, live, attempts)) or attempts
        if candidates:
            self.simulation.engine.remove(self.scheduler.rng.choice(candidates))
        self.simulation.engine.removes_restarted = True

    def unlist_attempt(self) -> None:
        """The engine's lists lack one attempt, which lives: its folder was moved, or it lost its label."""
        live = [attempt for attempt in self.simulation.engine.attempts.values() if not attempt.ended]
        if live:
            self.simulation.engine.unlist(self.scheduler.rng.choice(live), self.scheduler.rng.random() * 60)

    def change_engine(self) -> None:
        """A replica is started anew, by mistake on another engine, which has nothing of what runs; or on
        the right one again.
        """
        simulation = self.simulation
        # else the other one might be recorded, and be the right one
        if simulation.keys.engine in simulation.oracle.values:
            computer = self._any()
            computer.engine = (
                simulation.other_engine if computer.engine is simulation.engine else simulation.engine
            )
            computer.crash()

    def mislead(self) -> None:
        """A replica's address of the engine leads to another one, which it may read, and no more, until it
        is started anew.
        """
        simulation, computer = self.simulation, self._any()
        process = computer.process
        if (
            simulation.keys.engine in simulation.oracle.values
            and process is not None
            and computer.engine is simulation.engine
        ):
            # its folder was moved away, and another one is put in its place
            if self.scheduler.rng.random() < 0.5:
                self.unlist_attempt()

            def lead() -> None:
                self.scheduler.note(f"{process.name} is led to another engine")
                simulation.engine.misled[process.name] = simulation.other_engine
                self._for_a_while(lambda: computer.crash() if computer.process is process else None)

            self._soon(self.scheduler.rng.random() * simulation.relist_seconds, lead)

    def adopt_engine(self) -> None:
        """An operator changes the record of the engine, and changes it again while the election that
        follows is under way.
        """
        keys, users, oracle = self.simulation.keys, self.simulation.users, self.simulation.oracle

        def adopt() -> None:
            if keys.engine in oracle.values:
                record = decode_engine(oracle.values[keys.engine])
                engine = replace(record.engine, details={"address": f"at {self.scheduler.now:.6f}"})
                users.put_bytes(keys.engine, encode(replace(record, engine=engine), Op("adopt")))
                users.delete(keys.leader)

        adopt()
        self._for_a_while(adopt, longest=0.2)

    def delete_identity(self) -> None:
        """Somebody deletes who the installation is, or which engine it has; now and then both, and while
        an election goes on.
        """
        keys, rng, users = self.simulation.keys, self.scheduler.rng, self.simulation.users
        for key in rng.sample((keys.installation, keys.engine), rng.choice((1, 1, 2))):
            users.delete(key)
        if rng.random() < 0.2:
            users.delete(keys.leader)

    def settle_in(self) -> None:
        """Another installation of our cluster's name starts an attempt under a name that ours may want."""
        task = self.scheduler.rng.choice([*self.simulation.oracle.accepted, "of-nobody"])
        number = max(self.simulation.oracle.admitted.get(task, 0), 0) + self.scheduler.rng.randint(1, 2)
        self.simulation.engine.settle_in(AttemptId(task, number))

    def poison(self) -> None:
        """An error of Tally's own: raised whenever a leader looks at one task, or is about to commit what
        it decided on it.
        """
        rng, oracle, poisons = self.scheduler.rng, self.simulation.oracle, self.simulation.poisons
        tasks = oracle.unfinished() or list(oracle.accepted)
        if tasks:
            task_id = rng.choice(tasks)
            poisons.plant(task_id, rng.choice(POINTS))
            if rng.random() < 0.5:  # else it is there until somebody mends it
                self.scheduler.after(rng.random() * 10, lambda: poisons.draw(task_id))

    def forge_attempt(self) -> None:
        """Somebody makes an attempt by hand, in our name, of a task that holds nothing."""
        oracle = self.simulation.oracle
        waiting = [
            task
            for task in oracle.unfinished()
            if task not in oracle.statuses or not oracle.statuses[task].is_holding
        ]
        idle = [task for task, status in oracle.statuses.items() if not status.is_holding]
        candidates = waiting if waiting and self.scheduler.rng.random() < 0.8 else idle
        if candidates:
            task = self.scheduler.rng.choice(candidates)
            last = oracle.statuses[task].attempt if task in oracle.statuses else 0
            self.simulation.engine.forge(AttemptId(task, last + 1 + self.scheduler.rng.randint(0, 2)))

    # -- details
    # -----------------------------------------------------------------------------------------------------

    def _soon(self, seconds: float, action: Callable[[], None]) -> None:
        """Go on with a fault in a moment, unless all have ended by then."""
        self.scheduler.after(seconds, lambda: None if self._ended else action())

    def _schedule(self, name: str) -> None:
        mean, method = FAULTS[name]
        mean /= self.simulation.scenario.density

        def strike() -> None:
            if self._ended:
                return
            self.scheduler.note(f"fault: {name}")
            struck = self.simulation.result.faults
            struck[name] = struck.get(name, 0) + 1
            getattr(self, method)()
            self._schedule(name)

        self.scheduler.after(self.scheduler.rng.expovariate(1 / mean), strike)

    def _any(self) -> Computer:
        """One replica: rather the leader."""
        rng = self.scheduler.rng
        leading = [computer for computer in self.simulation.computers if computer.is_leading]
        return rng.choice(leading if leading and rng.random() < 0.6 else self.simulation.computers)

    def _pause(self, computer: Computer) -> None:
        self.scheduler.note(f"{computer.name} is stopped")
        rng = self.scheduler.rng
        seconds = rng.choice((rng.random(), rng.random() * 3 * self.simulation.timings.lease_ttl_seconds))
        computer.machine.paused_until = max(computer.machine.paused_until, self.scheduler.now + seconds)

    def _cut(self, server: Server) -> None:
        link = server.link(self._any().machine)
        how = self.scheduler.rng.choice(("refused", "silent", "deaf"))
        self.scheduler.note(f"{server.name}: a link is {how}")
        if how == "refused":
            link.up = False
        else:
            setattr(link, how, True)
        self._for_a_while(lambda: _mend(link))

    def _lose(self, server: Server) -> None:
        link = server.link(self._any().machine)
        link.loss = self.scheduler.rng.choice((0.05, 0.2, 0.5))
        self._for_a_while(lambda: _mend(link))

    def _delay(self, server: Server) -> None:
        link = server.link(self._any().machine)
        link.slow, link.late = (
            self.scheduler.rng.choice((1.0, 10.0, 100.0)),
            self.scheduler.rng.choice((0.0, 0.1, 0.4)),
        )
        self._for_a_while(lambda: _mend(link))

    def _for_a_while(self, undo: Callable[[], object], longest: float = 15.0) -> None:
        self._undos += 1
        number = self._undos
        self._undo[number] = undo

        def later() -> None:
            if self._undo.pop(number, None) is not None:
                undo()

        self.scheduler.after(self.scheduler.rng.random() ** 2 * longest, later)


RUBBISH = b'{"not": "one of ours'


def _mend(link: Link) -> None:
    link.__dict__.update(Link().__dict__)
