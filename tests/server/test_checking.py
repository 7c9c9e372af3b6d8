"""What C{--check} looks at beside what a start would."""

from __future__ import annotations

import os
import pwd
import stat
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.server.checking import User, later_user, unreadable_later
from twisted_bioconn.server.config import Configuration, load_config

_READ = stat.S_IROTH


class UserTests(SynchronousTestCase):
    """What a user may do with a file."""

    def test_bits(self) -> None:
        """Those of the owner, of the group, or of others: one of the three alone counts."""
        with open(path := self.mktemp(), "w"):
            pass
        status = os.stat(path)
        owner = User("owner", status.st_uid or 1, frozenset({status.st_gid}))
        if status.st_uid == 0:
            # Whoever is root is asked for no bits.
            os.chown(path, 1, status.st_gid)
        group = User("group", 12345, frozenset({7, status.st_gid}))
        other = User("other", 12345, frozenset({54321}))
        for mode, expected in (
            (0o600, [True, False, False]),
            (0o060, [False, True, False]),
            (0o604, [True, False, True]),
            (0o640, [True, True, False]),
        ):
            os.chmod(path, mode)
            found = [user.may(path, _READ) for user in (owner, group, other)]
            self.assertEqual(found, expected, oct(mode))
        os.chmod(path, 0o600)
        self.assertTrue(User("root", 0, frozenset()).may(path, _READ))

    def test_directory_on_the_way(self) -> None:
        base = os.path.realpath(self.mktemp())
        os.makedirs(os.path.join(base, "closed", "open"))
        path = os.path.join(base, "closed", "open", "file")
        with open(path, "w"):
            pass
        os.chmod(os.path.join(base, "closed"), 0o700)
        nobody = User("nobody", 12345, frozenset({54321}))
        obstacle = nobody.obstacle(path, _READ)
        assert obstacle is not None
        self.assertTrue(os.path.join(base, "closed").startswith(obstacle), obstacle)

    def test_nobody_is_given(self) -> None:
        self.assertIsNone(later_user(None))
        self.assertIsNone(later_user({"uid": None, "gid": None}))
        self.assertIsNone(later_user({}))

    def test_given(self) -> None:
        entry = pwd.getpwuid(os.getuid())
        user = later_user({"uid": entry.pw_uid, "gid": None})
        assert user is not None
        self.assertEqual(user.name, f"{entry.pw_name} (uid {entry.pw_uid})")
        self.assertIn(entry.pw_gid, user.groups)
        user = later_user({"uid": 4_000_000, "gid": 17})
        self.assertEqual(user, User("uid 4000000", 4_000_000, frozenset({17})))
        user = later_user({"uid": None, "gid": 17})
        assert user is not None
        self.assertEqual((user.uid, user.groups), (os.getuid(), frozenset({17})))


class LaterTests(SynchronousTestCase):
    """What a reload could not read."""

    def setUp(self) -> None:
        self.directory = os.path.realpath(self.mktemp())
        os.mkdir(self.directory)
        self.pair = os.path.join(self.directory, "pair.pem")
        with open(self.pair, "wb") as file:
            file.write(DevelopmentAuthority(self.mktemp()).issue(["a.example"]).to_pem())
        self.path = os.path.join(self.directory, "front.toml")

    def said(self, text: str, user: User, config: str | None = None) -> list[str]:
        with open(self.path, "w") as file:
            file.write(dedent(text))
        configuration: Configuration = load_config(self.path)
        found = [str(each) for each in unreadable_later(configuration, user, config)]
        return [each.replace(self.directory, "DIR") for each in found]

    def test_files(self) -> None:
        stranger = User("a stranger", 12345, frozenset({54321}))
        os.chmod(self.pair, 0o600)
        os.chmod(self.directory, 0o700)
        # Whatever else is closed on the way here, what is told begins alike.
        found = self.said(
            f"""\
            state = "{self.directory}/absent"
            [[listen]]
            port = 1
            privateKey = "{self.pair}"
            crl = "{self.directory}/absent.pem"
            policy = "modern"
            web = "{self.directory}"
            [[listen]]
            endpoint = "1:certKey={self.pair}"
            forward = "bioconn:localhost:1:trustRoots={self.pair}"
            """,
            stranger,
        )
        for each, start in zip(
            found,
            (
                "DIR/front.toml:4: privateKey: a stranger cannot read DIR/pair.pem after the start",
                "DIR/front.toml:7: web: a stranger cannot read DIR after the start",
                "DIR/front.toml:9: endpoint: certKey: a stranger cannot read DIR/pair.pem after",
                "DIR/front.toml:10: forward: bioconn:localhost:1:trustRoots=DIR/pair.pem:"
                " trustRoots: a stranger cannot read DIR/pair.pem after the start",
            ),
            strict=True,
        ):
            self.assertTrue(each.startswith(start), each)
            self.assertTrue(each.endswith(": a reload would fail"), each)

    def test_readable(self) -> None:
        root = User("root", 0, frozenset())
        self.assertEqual(
            self.said(
                f"""\
                [[listen]]
                port = 1
                privateKey = "{self.pair}"
                echo = true
                """,
                root,
                self.path,
            ),
            [],
        )
