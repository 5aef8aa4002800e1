"""`User` in an image config means what docker and runc make of it, by the image's own account files."""

from __future__ import annotations

import pytest

from launch.containers.run_errors import UserNotFound
from launch.containers.users import ContainerUser, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment:x:1:1::/:
broken line
app:x:1000:1000:App:/srv/app:/bin/sh
1000:x:7:7::/seven:/bin/sh
huger:x:%b:1::/:/bin/sh
homeless:x:50:50:::
huge:x:99999999999:1::/:/bin/sh
web:x:33:33:w\xff:/var/w\xff:/bin/sh""" % (b"9" * 5000)
GROUP = b"""root:x:0:
wheel:x:10:root,app
app:x:1000:
staff:x:50:app,web
docker:x:999:app"""


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ContainerUser(0, 0, (0, 10), "/root")),
        ("root", ContainerUser(0, 0, (0, 10), "/root")),
        ("0", ContainerUser(0, 0, (0, 10), "/root")),
        ("app", ContainerUser(1000, 1000, (1000, 10, 50, 999), "/srv/app")),
        ("1000", ContainerUser(1000, 1000, (1000, 10, 50, 999), "/srv/app")),
        ("4242", ContainerUser(4242, 0, (0,), "/")),
        ("4242:17", ContainerUser(4242, 17, (17,), "/")),
        ("app:staff", ContainerUser(1000, 50, (50,), "/srv/app")),
        ("app:33", ContainerUser(1000, 33, (33,), "/srv/app")),
        (":staff", ContainerUser(0, 50, (50,), "/root")),
        ("app:", ContainerUser(1000, 1000, (1000, 10, 50, 999), "/srv/app")),
        ("homeless", ContainerUser(50, 50, (50,), "/")),
        ("web", ContainerUser(33, 33, (33, 50), "/var/w�")),
    ],
)
def test_user_is_resolved_by_the_images_own_files(wanted: str, expected: ContainerUser) -> None:
    assert resolve_user(wanted, PASSWD, GROUP) == expected


def test_an_image_without_account_files_runs_as_numbers() -> None:
    assert resolve_user("", b"", b"") == ContainerUser(0, 0, (0,), "/")
    assert resolve_user("5:6", b"", b"") == ContainerUser(5, 6, (6,), "/")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("nobody", "'nobody'"),
        ("huge", "'huge'"),
        ("app:nogroup", "'nogroup'"),
        ("-1", "'-1'"),
        ("2147483648", "2147483648"),
        ("0:2147483648", "2147483648"),
        ("9" * 5000, "numbers go from 0"),
        ("0:" + "9" * 5000, "numbers go from 0"),
    ],
)
def test_a_user_or_group_that_is_not_there_is_refused_by_name(wanted: str, named: str) -> None:
    with pytest.raises(UserNotFound, match=named):
        resolve_user(wanted, PASSWD, GROUP)
