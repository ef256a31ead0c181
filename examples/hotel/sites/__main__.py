"""Starts the sites: `python -m examples.hotel.sites --db hotel.db`. Prints the one address of all once they answer."""

import argparse
import socket
import threading
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Host

from examples.web import end_at_eof

from . import inn, lodge, palace
from .books import Books


def main() -> None:
    """Serves until it is told to stop, or standard input ends."""
    parser = argparse.ArgumentParser(prog="sites", description="Three small booking sites.")
    parser.add_argument("--db", type=Path, required=True, help="the SQLite file; made when missing")
    options = parser.parse_args()
    books = Books(options.db)
    sites = [Host(f"{site.SITE}.example", site.application(books)) for site in (inn, palace, lodge)]
    threading.Thread(target=end_at_eof, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(Starlette(routes=sites), log_level="warning", access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        books.close()


if __name__ == "__main__":
    main()
