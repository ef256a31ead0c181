"""Starts the shop: `python -m examples.coffee.shop --db shop.db`. Prints its address once it takes orders."""

import argparse
import os
import socket
import threading
from pathlib import Path

import uvicorn

from examples.web import end_at_eof

from .app import Shop
from .store import Store
from .trouble import Trouble


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="shop", description="A small web shop that sells coffee.")
    parser.add_argument("--db", type=Path, required=True, help="the SQLite file; made when missing")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--customer", default="ada", help="registered with the password in SHOP_PASSWORD, when that is set"
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="end when standard input does, so with its parent"
    )
    trouble = parser.add_argument_group("trouble")
    trouble.add_argument("--session-uses", type=int, default=0, help="sessions end after this many requests")
    trouble.add_argument("--price-rise-cents", type=int, default=0, help="prices rise at the first payment")
    trouble.add_argument("--unavailable", type=float, default=0.0, help="share of requests that get a 503")
    trouble.add_argument(
        "--lost-answers", type=int, default=0, help="so many payments charged, but answered 503"
    )
    trouble.add_argument("--slow-s", type=float, default=0.0, help="seconds that the basket takes")
    trouble.add_argument("--slow-payment-s", type=float, default=0.0, help="seconds that a payment takes")
    trouble.add_argument(
        "--slow-answer-s", type=float, default=0.0, help="seconds from a charge to its answer"
    )
    trouble.add_argument("--seed", type=int, default=0, help="of the 503s")
    options = parser.parse_args()

    store = Store(options.db)
    if password := os.environ.get("SHOP_PASSWORD"):
        store.add_customer(options.customer, password)
    shop = Shop(
        store,
        Trouble(
            session_uses=options.session_uses,
            price_rise_cents=options.price_rise_cents,
            unavailable=options.unavailable,
            lost_answers=options.lost_answers,
            slow_s=options.slow_s,
            slow_payment_s=options.slow_payment_s,
            slow_answer_s=options.slow_answer_s,
            seed=options.seed,
        ),
    )
    if options.until_eof:
        threading.Thread(target=end_at_eof, daemon=True).start()
    # Bound and listening before the address is printed, so that whoever reads the line can connect at once.
    listener = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        shop.application(), log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()


if __name__ == "__main__":
    main()
