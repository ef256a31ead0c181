"""A box that talks to a database and to a server of no particular protocol, with programs that know no proxy."""

from __future__ import annotations

import socket
import sys

import kibo

TOOLS = "/opt/tools"


def told(host: str, port: int, text: str) -> str:
    """Says one line to a server by its name, as any program would, and returns what it answers until it ends."""
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(f"{text}\n".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.decode()


class Talker(kibo.Box):
    """Talks."""

    def launch(self) -> None:
        self.launched = told("echo.example", 7, "launch")

    @kibo.action(effect="read", timeout_s=30)
    def say(self, text: str, host: str = "echo.example", port: int = 7) -> list[str]:
        """Say something, and return what was answered now, and in launch."""
        return [self.launched, told(host, port, text)]

    @kibo.action(effect="read", timeout_s=30)
    def outcome(self, host: str = "echo.example", port: int = 7) -> str:
        """Say how a connection comes out."""
        try:
            return told(host, port, "now")
        except OSError as error:
            return type(error).__name__


class Querier(kibo.Box):
    """Asks a database."""

    @kibo.action(effect="read", timeout_s=30)
    def query(self, statement: str) -> list[str]:
        """Return the rows' first columns."""
        sys.path.insert(0, TOOLS)
        import psycopg

        with psycopg.connect("host=db.example user=kibo dbname=postgres", connect_timeout=20) as database:
            return [str(row[0]) for row in database.execute(statement.encode()).fetchall()]
