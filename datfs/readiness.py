"""Telling the service manager how far we are: the protocol of sd_notify(3), of which we need three messages.

Without a service manager (no ``$NOTIFY_SOCKET``) nothing is said.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

VARIABLE = "NOTIFY_SOCKET"


def ready(status: str) -> None:
    """The service is up: whoever waits for it goes on. ``status``: one line for ``systemctl status``."""
    _tell(f"READY=1\nSTATUS={status}")


def status(text: str) -> None:
    """One line for ``systemctl status``."""
    _tell(f"STATUS={text}")


def stopping() -> None:
    """The end has begun."""
    _tell("STOPPING=1")


def _tell(message: str) -> None:
    place = os.environ.get(VARIABLE, "")
    if not place.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            # A name that begins with @ is in the abstract namespace, where the kernel wants a zero byte instead.
            sock.connect("\0" + place[1:] if place.startswith("@") else place)
            sock.send(message.encode())
        except OSError as error:
            log.warning("the service manager at %s cannot be told: %s", place, error.strerror)
