"""The nodes that the dispatcher works with, written down: whoever looks from outside decides from the same.

What is free there is not among it: that follows from the runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from sqlalchemy import bindparam, delete, select

from kibo.schedule.encoding import packed, unpacked
from kibo.schedule.placement import Demand, Node
from kibo.schedule.request import Resources
from kibo.store.database import Transaction
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import nodes

_OF: Final = Prepared(
    select(nodes.c.name, nodes.c.epoch, nodes.c.body)
    .where(nodes.c.dispatcher == bindparam("holder"))
    .order_by(nodes.c.name)
)
_DROP_ALL: Final = Prepared(delete(nodes))
_DROP: Final = Prepared(delete(nodes).where(nodes.c.name == bindparam("node")))
_ADD: Final = insertion(nodes)


def note(
    tx: Transaction, there: Mapping[str, Node], changed: Collection[str] | None, dispatcher: int
) -> None:
    """Writes nodes as they are now, or that they are gone.

    Args:
        tx: Fenced by the dispatcher's lease.
        there: All that are there.
        changed: Names of those to write; None for all, in place of whatever was written before.
        dispatcher: The epoch of its lease.
    """
    if changed is None:
        tx.run(_DROP_ALL)
    for name in sorted(there if changed is None else changed):
        tx.run(_DROP, node=name)
        if name in there:
            node = there[name]
            tx.run(_ADD, name=name, epoch=node.epoch, dispatcher=dispatcher, body=packed(_told(node)))


def noted(tx: Transaction, dispatcher: int) -> list[Node]:
    """Reads the nodes of a dispatcher, all of their room free, in order of name.

    Raises:
        StoreDamaged: One cannot be one.
    """
    found = tx.rows(_OF, holder=dispatcher)
    return [unpacked(f"the node {name}", body, partial(_read, name, epoch)) for name, epoch, body in found]


def _told(node: Node) -> dict[str, Any]:
    kept = None if node.kept is None else [node.kept[0], _demanded(node.kept[1])]
    return {
        "room": asdict(node.room),
        "labels": sorted(map(list, node.labels)),
        "near": sorted(node.near),
        "draining": node.draining,
        "kept": kept,
    }


def _demanded(demand: Demand) -> list[Any]:
    return [asdict(demand.resources), list(map(list, demand.labels))]


def _read(name: str, epoch: int, told: dict[str, Any]) -> Node:
    room = Resources(**told["room"])
    node = Node(
        name, epoch, room, frozenset(_pairs(told["labels"])), frozenset(map(str, told["near"])),
        bool(told["draining"]),
    )  # fmt: skip
    if told["kept"] is not None:
        tenant, (resources, labels) = told["kept"]
        node.kept = str(tenant), Demand(Resources(**resources), tuple(_pairs(labels)))
    return node


def _pairs(told: Iterable[Any]) -> list[tuple[str, str]]:
    return [(str(key), str(value)) for key, value in told]
