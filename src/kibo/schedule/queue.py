"""Who may start, and where: told what waits and what runs, it answers with starts. Pure, and never looks at all.

Runs of one tenant that ask for the same form a *lane*, by rank: when each was submitted, less what its priority is
worth. All age alike, so a rank never changes, and whoever comes late enough comes after. A lane whose first cannot pass
a bound on a key is parked there; one for which no node has room waits until one could have. Between tenants, whoever
has the smallest dominant share for its weight is next (Ghodsi et al., NSDI 2011).

A run that undoes something passes every bound, and comes before everything else of its tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Final, NamedTuple

from kibo.model.errors import Bug
from kibo.model.limits import AGING_S, RESERVE_AFTER_S
from kibo.schedule.gates import Bar, Gate, bars_of
from kibo.schedule.lifecycle import UNDOING
from kibo.schedule.placement import Demand, Node, Reason, choose, why_here, why_not
from kibo.schedule.ranking import Ranked
from kibo.schedule.request import Resources
from kibo.schedule.run import Run

#: How often it is looked at who has waited too long for room.
_KEEPING_S: Final = 1.0
#: How many of several things a reason names.
_NAMED: Final = 3


class Item(NamedTuple):
    """A run, as the queue sees it.

    Attributes:
        run: Its id.
        tenant: Whose.
        rank: Its place among its tenant's.
        demand: What its node must have.
        bars: What it must pass.
        near: What its node best has.
        since_s: When it began to wait, by the clock that nobody sets.
    """

    run: str
    tenant: str
    rank: tuple[int, float, int]
    demand: Demand
    bars: tuple[Bar, ...]
    near: tuple[str, ...]
    since_s: float

    @classmethod
    def of(cls, run: Run, since_s: float) -> Item:
        """Makes the item of a run."""
        request, undo = run.request, run.state in UNDOING
        return cls(
            run.id,
            request.tenant,
            (0 if undo else 1, run.created.at_s - request.priority * AGING_S, run.position),
            Demand(request.resources, tuple(sorted(request.labels.items()))),
            () if undo else bars_of(request),
            request.near,
            since_s,
        )


class Start(NamedTuple):
    """A decision: this run, on this node.

    Attributes:
        run: Its id.
        node: The node's.
        reasons: Why there.
    """

    run: str
    node: str
    reasons: tuple[Reason, ...]


class Lane:
    """Runs of one tenant that ask for the same."""

    __slots__ = ("bars", "demand", "items", "kept_by", "tenant")

    def __init__(self, tenant: Tenant, demand: Demand, bars: tuple[Bar, ...]) -> None:
        self.tenant: Final = tenant
        self.demand: Final = demand
        self.bars: Final = bars
        self.items: Final[Ranked[str]] = Ranked()
        self.kept_by: Bar | None = None

    def rank(self) -> tuple[int, float, int]:
        """The rank of its first, which must be there."""
        first = self.items.first()
        if first is None:
            raise Bug("an empty lane was asked for its rank")
        found: tuple[int, float, int] = self.items.rank(first)
        return found


class Tenant:
    """One tenant: its lanes that could go on, by what they demand; and what it has of all nodes."""

    __slots__ = ("demands", "name", "served", "shapes", "used", "weight", "woken")

    def __init__(self, name: str, weight: float) -> None:
        self.name: Final = name
        self.weight = weight
        self.used: list[int] = [0, 0, 0]
        self.served = 0
        self.shapes: Final[dict[Demand, Ranked[Lane]]] = {}
        #: Demands that may be tried, by the rank of their first.
        self.demands: Final[Ranked[Demand]] = Ranked()
        #: Lanes that a gate has let go on, and that have not been tried since.
        self.woken: Final[dict[Demand, dict[Lane, None]]] = {}

    def rest(self, lane: Lane) -> None:
        """Notes that a lane which a gate has let go on has been tried, or has gone."""
        self.woken.get(lane.demand, {}).pop(lane, None)

    def share(self, total: list[int]) -> tuple[float, int]:
        """What it has, for its weight, of what it has most of; of equals, whoever was served longer ago is first."""
        return max(
            u / t if t else 0.0 for u, t in zip(self.used, total, strict=True)
        ) / self.weight, self.served


class Queue:
    """All runs that wait, and all that is at work. Every call says what the time is, by a clock that nobody sets."""

    def __init__(self) -> None:
        self.nodes: Final[dict[str, Node]] = {}
        self.items: Final[dict[str, Item]] = {}
        self._tenants: Final[dict[str, Tenant]] = {}
        self._lanes: Final[dict[tuple[str, Demand, tuple[Bar, ...]], Lane]] = {}
        self._gates: Final[dict[tuple[str, str], Gate]] = {}
        self._openings: Final[Ranked[Bar]] = Ranked()
        #: Keys of rates, by when their starts count no longer.
        self._fading: Final[Ranked[Bar]] = Ranked()
        self._ready: Final[Ranked[Tenant]] = Ranked()
        #: Demands that no node has room for, and the tenants that wait for it, by their shares.
        self._full: Final[dict[Demand, Ranked[Tenant]]] = {}
        #: Of demands that no node had room for, the nodes that have changed since: no other can have any.
        self._changed: Final[dict[Demand, dict[str, Node]]] = {}
        self._holding: Final[dict[str, tuple[Bar, ...]]] = {}
        self._placed: Final[dict[str, tuple[Node, Resources, Tenant]]] = {}
        self._total = [0, 0, 0]
        self._served = 0
        #: Nodes that are kept free, by the tenant and the demand that they are kept for.
        self._kept: Final[dict[tuple[str, Demand], Node]] = {}
        self._kept_s = float("-inf")
        #: Nodes of which there is something else to tell than when whoever tells it has last emptied this.
        self.untold: Final[set[str]] = set()

    def __len__(self) -> int:
        return len(self.items)

    # -- what is told

    def weigh(self, tenant: str, weight: float) -> None:
        """Sets how much a tenant counts; 1 where nothing is said."""
        self._tenant(tenant).weight = weight

    def add(self, item: Item) -> None:
        """A run waits to be started. One that is there already is that no longer."""
        self.remove(item.run)
        tenant = self._tenant(item.tenant)
        lane = self._lanes.get((item.tenant, item.demand, item.bars))
        if lane is None:
            lane = Lane(tenant, item.demand, item.bars)
            self._lanes[item.tenant, item.demand, item.bars] = lane
        self.items[item.run] = item
        lane.items.put(item.run, item.rank)
        self._put(lane)

    def remove(self, run: str) -> None:
        """A run waits no longer, for whatever reason."""
        item = self.items.pop(run, None)
        if item is None:
            return
        lane = self._lanes[item.tenant, item.demand, item.bars]
        lane.items.discard(run)
        self._put(lane)

    def hold(self, item: Item, node: str | None) -> None:
        """A run is at work already, as it is after a restart, or where its node is back. Again, it changes nothing.

        Args:
            item: It.
            node: Where, or None where no attempt of it lives.
        """
        if item.run not in self._holding:
            self._pass(item)
        if node is not None and node in self.nodes and item.run not in self._placed:
            self._occupy(item, self.nodes[node])

    def started(self, bars: Iterable[Bar], at_s: float) -> None:
        """A run was started at some time, as its rates count. Calls are in order of time."""
        for bar in bars:
            if bar.kind == "rate":
                gate = self._gate(bar)
                gate.started(at_s)
                self._fading.put(bar._replace(most=0, per_s=0.0), gate.idle_at())

    def leave(self, run: str) -> None:
        """The attempt of a run has ended: its room is free. What it holds of its keys it still holds."""
        placed = self._placed.pop(run, None)
        if placed is None:
            return
        node, resources, tenant = placed
        node.runs.discard(run)
        node.free = node.free.plus(resources)
        self._use(tenant, resources, -1)
        self._reopen(node)

    def release(self, run: str, now_s: float) -> None:
        """A run is at work no longer: what it held of its keys is free, and its room."""
        self.leave(run)
        for bar in self._holding.pop(run, ()):
            if bar.kind == "limit":
                self._gate(bar).working -= 1
                self._wake(bar, now_s)
                self._forget_idle(bar, now_s)

    def join(self, node: Node) -> None:
        """A node is there; kept free, where it is so already."""
        self.nodes[node.id] = node
        self.untold.add(node.id)
        if node.kept is not None:
            self._kept[node.kept] = node
        self._resize(node.room, 1)
        self._reopen(node)

    def part(self, node: str) -> list[str]:
        """A node is gone. Returns the runs that were there, which still hold their keys."""
        gone = self.nodes.pop(node, None)
        if gone is None:
            return []
        self.untold.add(node)
        if gone.kept is not None:
            self._unkeep(*gone.kept)
        runs = sorted(gone.runs)
        for run in runs:
            self.leave(run)
        self._resize(gone.room, -1)
        return runs

    def describe(
        self, node: str, *, near: frozenset[str] | None = None, draining: bool | None = None
    ) -> None:
        """A node has other layers than before, or takes nothing more, or takes something again."""
        there = self.nodes[node]
        self.untold.add(node)
        there.near = there.near if near is None else near
        if draining is not None:
            there.draining = draining
            if draining and there.kept is not None:
                self._unkeep(*there.kept)
            self._reopen(there)

    # -- what is decided

    def decide(self, now_s: float, most: int) -> list[Start]:
        """Decides who is started now, and counts them as started.

        Args:
            now_s: The time.
            most: Starts at most.
        """
        self._open(now_s)
        self._keep(now_s)
        starts: list[Start] = []
        while len(starts) < most and (tenant := self._ready.first()) is not None:
            rank = tenant.share(self._total)
            if self._ready.rank(tenant) != rank:  # others' nodes have come or gone since it was put there
                self._ready.put(tenant, rank)
                continue
            start = self._serve(tenant, now_s)
            if start is None:
                self._ready.discard(tenant)
            else:
                starts.append(start)
                if tenant.demands:
                    self._ready.put(tenant, tenant.share(self._total))
        return starts

    def next_s(self) -> float | None:
        """Says when it is to decide again though nothing has happened; None for never."""
        rate = self._openings.least()
        keeping = self._kept_s + _KEEPING_S if self._full else None
        return min((each for each in (rate, keeping) if each is not None), default=None)

    def _serve(self, tenant: Tenant, now_s: float) -> Start | None:
        while (demand := tenant.demands.first()) is not None:
            lane = tenant.shapes[demand].first()
            if lane is None:
                raise Bug("a demand has no lane")
            closed = next((bar for bar in lane.bars if self._gate(bar).open_at(bar, now_s) != now_s), None)
            if closed is not None:
                self._park(lane, closed, now_s)
                continue
            tenant.rest(lane)
            first = lane.items.first()
            if first is None:
                raise Bug("an empty lane was ready")
            item = self.items[first]
            node = choose(self._hopeful(demand), tenant.name, demand, item.near)
            if node is None:
                self._no_room(tenant, demand, lane, now_s)
                continue
            return self._start(lane, item, node, now_s)
        return None

    def _start(self, lane: Lane, item: Item, node: Node, now_s: float) -> Start:
        reasons = why_here(node, item.demand, item.near)
        if item.run not in self._holding:
            self._pass(item)
        self.started(item.bars, now_s)
        self._occupy(item, node)
        self._served += 1
        lane.tenant.served = self._served
        self.remove(item.run)
        self._unkeep(item.tenant, item.demand)
        for bar in lane.bars:
            self._wake(bar, now_s)
        self._room_for(item.demand)
        return Start(item.run, node.id, reasons)

    # -- lanes

    def _put(self, lane: Lane) -> None:
        """Puts a lane where it belongs now: to its demand, before a gate, or nowhere."""
        tenant, demand = lane.tenant, lane.demand
        shape = tenant.shapes.get(demand)
        if lane.kept_by is not None:
            gate = self._gate(lane.kept_by)
            if lane.items:
                gate.park(lane.kept_by, tenant.name, lane)
            else:
                gate.leave(lane.kept_by, tenant.name, lane)
        elif lane.items:
            if shape is None:
                shape = tenant.shapes[demand] = Ranked()
            shape.put(lane, lane.rank())
        elif shape is not None:
            shape.discard(lane)
        if not lane.items:
            self._lanes.pop((tenant.name, demand, lane.bars), None)
            tenant.rest(lane)
        self._rank(tenant, demand)

    def _rank(self, tenant: Tenant, demand: Demand) -> None:
        """Brings a demand of a tenant's to where its first lane puts it."""
        shape = tenant.shapes.get(demand)
        first = shape.first() if shape is not None else None
        full = self._full.get(demand)
        if first is None:
            tenant.shapes.pop(demand, None)
            tenant.demands.discard(demand)
            tenant.woken.pop(demand, None)
            self._changed.pop(demand, None)
            self._unkeep(tenant.name, demand)
            if full is not None and tenant in full:
                self._not_full(tenant, demand, full)
            else:
                self._room_for(demand)  # it may have been the one that was to be tried
        elif full is None or tenant not in full:
            tenant.demands.put(demand, first.rank())
            if tenant not in self._ready:
                self._ready.put(tenant, tenant.share(self._total))

    def _park(self, lane: Lane, bar: Bar, now_s: float) -> None:
        tenant, demand = lane.tenant, lane.demand
        tenant.shapes[demand].discard(lane)
        tenant.rest(lane)
        lane.kept_by = bar
        self._put(lane)
        for other in lane.bars:  # it may have been the one that another gate has let go on
            self._wake(other, now_s)
        self._room_for(demand)

    def _wake(self, bar: Bar, now_s: float) -> None:
        """Has the next lane go on at a key, for each of its bounds that is open; else notes when it will be."""
        gate = self._gates.get((bar.kind, bar.key))
        if gate is not None:
            for each in list(gate.parked):
                self._wake_at(gate, each, now_s)

    def _wake_at(self, gate: Gate, bar: Bar, now_s: float) -> None:
        opens = gate.open_at(bar, now_s)
        if opens != now_s:
            if opens is not None:
                self._openings.put(bar, opens)
            return
        while (lane := gate.next(bar)) is not None:
            lane.kept_by = None
            self._put(lane)
            full = self._full.get(lane.demand)
            if full is None or lane.tenant not in full:
                lane.tenant.woken.setdefault(lane.demand, {})[lane] = None
                return
            # That one waits for room as well, and must not stand in the way of the next.

    def _open(self, now_s: float) -> None:
        while (bar := self._openings.first()) is not None and self._openings.rank(bar) <= now_s:
            self._openings.discard(bar)
            self._wake(bar, now_s)
        while (bar := self._fading.first()) is not None and self._fading.rank(bar) <= now_s:
            self._fading.discard(bar)
            self._forget_idle(bar, now_s)

    # -- room

    def _no_room(self, tenant: Tenant, demand: Demand, lane: Lane, now_s: float) -> None:
        """No node has room: the tenant's runs of this demand wait, and keep nobody back at a gate meanwhile."""
        self._full.setdefault(demand, Ranked()).put(tenant, tenant.share(self._total))
        # One that is kept free for another tenant's run of this demand has not been tried by that one.
        self._changed[demand] = {
            each.id: each
            for each in self._hopeful(demand)
            if each.kept is not None and each.kept[1] == demand
        }
        tenant.demands.discard(demand)
        for each in {lane: None, **tenant.woken.pop(demand, {})}:
            for bar in each.bars:
                self._wake(bar, now_s)

    def _hopeful(self, demand: Demand) -> Iterable[Node]:
        """The nodes that may have room for a demand: all, or those that have changed since none had."""
        changed = self._changed.get(demand)
        if changed is None:
            return self.nodes.values()
        return [each for each in changed.values() if self.nodes.get(each.id) is each]

    def _reopen(self, node: Node) -> None:
        """A node has more room: of each demand that it can take, whoever has the least is tried again."""
        for demand, changed in self._changed.items():
            if node.fits(demand, "" if node.kept is None else node.kept[0]):
                changed[node.id] = node
        for demand, tenants in list(self._full.items()):
            if node.kept is None:
                if node.fits(demand, ""):
                    self._room_for(demand)
            elif node.kept[1] == demand:
                tenant = self._tenant(node.kept[0])
                if tenant in tenants and node.fits(demand, tenant.name):
                    self._try_again(tenant, demand, tenants)

    def _room_for(self, demand: Demand) -> None:
        """There may be room for one more of a demand: whoever has the least is tried, and then whoever is next."""
        tenants = self._full.get(demand)
        tenant = None if tenants is None else tenants.first()
        if tenants is not None and tenant is not None:
            self._try_again(tenant, demand, tenants)

    def _try_again(self, tenant: Tenant, demand: Demand, tenants: Ranked[Tenant]) -> None:
        self._not_full(tenant, demand, tenants)
        self._rank(tenant, demand)

    def _unkeep(self, tenant: str, demand: Demand) -> None:
        """What was kept free for a tenant's runs of a demand is anybody's: one was started, or none waits."""
        node = self._kept.pop((tenant, demand), None)
        if node is not None:
            node.kept = None
            self.untold.add(node.id)
            self._reopen(node)

    def _not_full(self, tenant: Tenant, demand: Demand, tenants: Ranked[Tenant]) -> None:
        tenants.discard(tenant)
        if not tenants:
            del self._full[demand]

    def _keep(self, now_s: float) -> None:
        """Keeps up to half of the nodes free for those who have waited too long for room, the longest first."""
        if now_s < self._kept_s + _KEEPING_S:
            return
        self._kept_s = now_s
        waiting = [
            (since, tenant.name, demand)
            for demand, tenants in self._full.items()
            for tenant in tenants
            if (tenant.name, demand) not in self._kept
            and now_s - (since := self._since(tenant, demand)) > RESERVE_AFTER_S
        ]
        waiting.sort(key=lambda each: each[:2])
        for _, name, demand in waiting[: max(0, max(1, len(self.nodes) // 2) - len(self._kept))]:
            fit = [node for node in self.nodes.values() if node.kept is None and node.could(demand)]
            if fit:
                node = max(fit, key=lambda each: each.left(demand.resources))
                node.kept = name, demand
                self._kept[node.kept] = node
                self.untold.add(node.id)
                self._reopen(node)

    def _since(self, tenant: Tenant, demand: Demand) -> float:
        lane = tenant.shapes[demand].first()
        first = None if lane is None else lane.items.first()
        return float("inf") if first is None else self.items[first].since_s

    def _occupy(self, item: Item, node: Node) -> None:
        tenant = self._tenant(item.tenant)
        node.runs.add(item.run)
        node.free = node.free.plus(item.demand.resources, -1)
        self._placed[item.run] = (node, item.demand.resources, tenant)
        self._use(tenant, item.demand.resources, 1)

    def _use(self, tenant: Tenant, resources: Resources, sign: int) -> None:
        for n, value in enumerate(_numbers(resources)):
            tenant.used[n] += sign * value
        if tenant in self._ready:
            self._ready.put(tenant, tenant.share(self._total))
        for demand in tenant.shapes:
            full = self._full.get(demand)
            if full is not None and tenant in full:
                full.put(tenant, tenant.share(self._total))

    def _resize(self, room: Resources, sign: int) -> None:
        for n, value in enumerate(_numbers(room)):
            self._total[n] += sign * value

    def _pass(self, item: Item) -> None:
        """Counts a run at its keys, until it is released."""
        for bar in item.bars:
            self._gate(bar).working += bar.kind == "limit"
        self._holding[item.run] = item.bars

    def _forget_idle(self, bar: Bar, now_s: float) -> None:
        gate = self._gates.get((bar.kind, bar.key))
        if gate is not None and gate.idle(now_s):
            del self._gates[bar.kind, bar.key]

    def _tenant(self, name: str) -> Tenant:
        found = self._tenants.get(name)
        if found is None:
            found = self._tenants[name] = Tenant(name, 1.0)
        return found

    def _gate(self, bar: Bar) -> Gate:
        found = self._gates.get((bar.kind, bar.key))
        if found is None:
            found = self._gates[bar.kind, bar.key] = Gate()
        return found

    # -- what is told of it

    def shares(self) -> dict[str, float]:
        """Returns what each tenant has of the nodes, of what it has most of, for its weight."""
        return {tenant.name: tenant.share(self._total)[0] for tenant in self._tenants.values()}

    def explain(self, run: str, now_s: float) -> tuple[Reason, ...]:
        """Says why a run was not started when it was last decided: each bound, each node, and who comes first.

        Empty where it does not wait here. Looks at all that wait; about 0.2 us for each.
        """
        item = self.items.get(run)
        if item is None:
            return ()
        closed = {bar for bar in item.bars if not self._is_open(bar, now_s)}
        found = [self._closed(bar, now_s) for bar in item.bars if bar in closed]
        room = any(node.fits(item.demand, item.tenant) for node in self.nodes.values())
        if not self.nodes:
            found.append(Reason("nodes", "", "there is no node"))
        elif not room:
            found += [why_not(node, item.demand, item.tenant) for node in self.nodes.values()]
        return (*found, *self._before(item, closed, room=room))

    def _is_open(self, bar: Bar, now_s: float) -> bool:
        gate = self._gates.get((bar.kind, bar.key))
        return gate is None or gate.open_at(bar, now_s) == now_s

    def _closed(self, bar: Bar, now_s: float) -> Reason:
        gate = self._gate(bar)
        opens = gate.open_at(bar, now_s)
        if opens is not None:
            told = f"{bar.most} were started within {bar.per_s:g} s; the next in {opens - now_s:.3g} s"
            return Reason("rate", bar.key, told)
        holders = sorted(
            run
            for run, bars in self._holding.items()
            if any((each.kind, each.key) == ("limit", bar.key) for each in bars)
        )
        named = ", ".join(holders[:_NAMED]) + (", ..." if len(holders) > _NAMED else "")
        return Reason("limit", bar.key, f"{gate.working} of {bar.most} are at work: {named}")

    def _before(self, item: Item, closed: Set[Bar], *, room: bool) -> Iterator[Reason]:
        """Says who comes first of those that want the same room, or that stand before the same bounds."""
        older = sum(
            1
            for each in self.items.values()
            if each.tenant == item.tenant
            and each.rank < item.rank
            and (each.demand == item.demand or not closed.isdisjoint(each.bars))
        )
        if older:
            runs = "1 run" if older == 1 else f"{older:,} runs"
            yield Reason("turn", item.tenant, f"{runs} of its tenant, older or of a higher priority, first")
        tenant, waiting = self._tenants[item.tenant], self._full.get(item.demand, ())
        mine, _ = tenant.share(self._total)
        poorer = sorted(other.name for other in waiting if other.share(self._total)[0] < mine)
        if poorer and not room:
            share = f"{mine:.0%} of the nodes for its weight"
            named = ", ".join(map(repr, poorer[:_NAMED])) + (", ..." if len(poorer) > _NAMED else "")
            yield Reason("share", item.tenant, f"its tenant has {share}, and these have less: {named}")


def _numbers(resources: Resources) -> Iterable[int]:
    return resources.millicpus, resources.memory_bytes, resources.boxes
