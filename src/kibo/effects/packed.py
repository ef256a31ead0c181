"""Rules and secrets on their way to the gateway, and in the ledger."""

from typing import Final, NamedTuple, Self

import msgspec

from kibo.box.policy import Allow, Deny, Rule


class PackedRule(msgspec.Struct, array_like=True):
    """A rule. In the ledger it is what allows a request, `idempotent` where any rule says so of that."""

    deny: bool
    target: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    to: str | None = None
    passthrough: bool = False
    effect: str | None = None
    tcp: bool = False
    approve_within_s: float | None = None
    idempotent: bool = False

    @classmethod
    def pack(cls, rule: Rule) -> Self:
        """Packs a rule."""
        methods, paths = tuple(rule.methods), tuple(rule.paths)
        if isinstance(rule, Deny):
            return cls(True, rule.target, methods, paths)
        return cls(
            False, rule.target, methods, paths, rule.to, rule.passthrough, rule.effect, rule.tcp,
            rule.approve_within_s, rule.idempotent,
        )  # fmt: skip

    def unpack(self) -> Rule:
        """Makes the rule again."""
        if self.deny:
            return Deny(self.target, self.methods, self.paths)
        within_s = self.approve_within_s
        return Allow(
            self.target, self.to, self.passthrough, self.methods, self.paths, self.effect, self.tcp,
            within_s is not None, within_s, self.idempotent,
        )  # fmt: skip


class PackedSecret(NamedTuple):
    """A secret without its value: what stands in its place, and which hosts may receive it."""

    placeholder: str
    hosts: tuple[str, ...]


RULE: Final = msgspec.msgpack.Decoder(PackedRule)
SECRETS: Final = msgspec.msgpack.Decoder(list[PackedSecret])
