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

from importlib.metadata import version as _version

from datfs.client import OpenDrive, Options, open_drive
from datfs.drive import Drive, DriveTree
from datfs.errors import DatfsError
from datfs.link import Link, discovery_key, parse_link
from datfs.net.listening import ListenAt
from datfs.register import Register

__version__ = _version("datfs")

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
