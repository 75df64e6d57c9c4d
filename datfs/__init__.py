"""datfs: dat:// drives as folders, and a complete Dat v1 client.

::

    async with datfs.open_drive("dat://…", datfs.Options(peers=[("192.0.2.1", 3282)])) as opened:
        tree = await opened.drive.checkout()
        for entry in await tree.list(tree.root):
            print(entry.name, entry.size)
        file = await tree.open(await tree.find((b"dat.json",)))
        data = await file.read(0, 1000)

Everything that waits can be cancelled: put ``trio.fail_after`` around it.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from datfs.client import OpenDrive, Options, open_drive
    from datfs.drive import Drive, DriveTree
    from datfs.errors import DatfsError
    from datfs.link import Link, discovery_key, parse_link
    from datfs.net.listening import ListenAt
    from datfs.register import Register

    __version__: str

__all__ = [
    "DatfsError",
    "Drive",
    "DriveTree",
    "Link",
    "ListenAt",
    "OpenDrive",
    "Options",
    "Register",
    "__version__",
    "discovery_key",
    "open_drive",
    "parse_link",
]

_HOMES = {
    "DatfsError": "errors",
    "Drive": "drive",
    "DriveTree": "drive",
    "Link": "link",
    "ListenAt": "net.listening",
    "OpenDrive": "client",
    "Options": "client",
    "Register": "register",
    "discovery_key": "link",
    "open_drive": "client",
    "parse_link": "link",
}


def __getattr__(name: str) -> object:
    """The public names, imported when they are asked for: the command line has to set up something before."""
    if name == "__version__":
        value: object = _importlib.import_module("importlib.metadata").version("datfs")
    elif name in _HOMES:
        value = getattr(_importlib.import_module(f"datfs.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'datfs' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
