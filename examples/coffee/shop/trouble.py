"""The everyday trouble of real sites, each kind behind its own switch."""

import random
from dataclasses import dataclass, field


@dataclass
class Trouble:
    """What goes wrong on purpose; by default nothing does.

    Attributes:
        session_uses: A signed-in session ends after this many requests; 0 is never.
        price_rise_cents: Every price goes up by this much, once, at the moment the first payment arrives.
        unavailable: Share of the requests, 0 to 1, that get a 503 before anything has been done.
        lost_answers: So many payments are charged and then answered with a 503: the worst a client can meet.
        slow_s: Seconds that each page of the basket takes.
        slow_payment_s: Seconds from a payment's arrival to its charge, whether or not the client still waits.
        slow_answer_s: Seconds from a payment's charge to its answer: long enough to die in.
        seed: Of the dice behind `unavailable`, so that a run can be repeated.
    """

    session_uses: int = 0
    price_rise_cents: int = 0
    unavailable: float = 0.0
    lost_answers: int = 0
    slow_s: float = 0.0
    slow_payment_s: float = 0.0
    slow_answer_s: float = 0.0
    seed: int = 0
    _dice: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.unavailable < 1:
            raise ValueError(f"unavailable is a share, 0 <= share < 1, and not {self.unavailable}")
        self._dice = random.Random(self.seed)

    def strikes(self) -> bool:
        """Throws the dice for one request: True when it is to get a 503."""
        return self._dice.random() < self.unavailable

    def take_price_rise(self) -> int:
        """Returns the rise in cents, the first time; 0 from then on."""
        cents, self.price_rise_cents = self.price_rise_cents, 0
        return cents

    def take_lost_answer(self) -> bool:
        """True when the answer to a payment that has just been charged is to be lost."""
        self.lost_answers -= 1
        return self.lost_answers >= 0
