"""The program of the demo image: imports what a larger service would, says READY, waits.

It runs inside the container with Debian's Python and uses the standard library only, among it modules in C
(`_ssl`, `_sqlite3`, `_ctypes`, `_decimal` …). Nothing of nopull is there.
"""

from __future__ import annotations

import importlib
import sys

MODULES = """
    abc argparse array ast asyncio base64 binascii bisect bz2 calendar cmath code codecs collections
    collections.abc colorsys compileall concurrent.futures configparser contextlib contextvars copy
    csv ctypes ctypes.util dataclasses datetime dbm decimal difflib dis doctest email
    email.mime.multipart email.mime.text email.parser encodings.idna enum fileinput filecmp fnmatch
    fractions ftplib functools getopt getpass gettext glob graphlib gzip hashlib heapq hmac html
    html.parser http http.client http.cookiejar http.cookies http.server imaplib importlib.metadata
    importlib.resources inspect io ipaddress itertools json keyword linecache locale logging
    logging.config logging.handlers lzma mailbox math mimetypes mmap multiprocessing
    multiprocessing.connection multiprocessing.pool netrc numbers opcode operator optparse os
    pathlib pdb pickle pkgutil platform plistlib poplib pprint profile pstats queue quopri random re
    readline resource rlcompleter runpy sched secrets select selectors shelve shlex shutil signal
    site smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess symtable
    sysconfig syslog tarfile tempfile termios textwrap threading timeit token tokenize tomllib trace
    traceback tracemalloc types typing unicodedata unittest unittest.mock urllib.parse
    urllib.request urllib.robotparser uuid venv warnings wave weakref webbrowser
    wsgiref.simple_server xml.dom.minidom xml.etree.ElementTree xml.sax xmlrpc.client xmlrpc.server
    zipapp zipfile zipimport zlib zoneinfo
""".split()  # noqa: SIM905 - one name a line would be 160 lines


def main() -> None:
    """Import, use a few of the compiled modules for real, report, wait."""
    loaded = {name: importlib.import_module(name) for name in MODULES}
    with loaded["sqlite3"].connect(":memory:") as database:
        one = database.execute("select 1").fetchone()[0]
    loaded["ssl"].create_default_context()
    loaded["asyncio"].run(loaded["asyncio"].sleep(0))
    assert one == 1
    print(f"READY {len(loaded)} modules", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
