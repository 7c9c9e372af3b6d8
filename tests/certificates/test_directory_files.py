"""
Tests for L{twisted_bioconn.certificates.directory_files}, by what a store does with them: which
directories are read, made and removed.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from tests.certificates.test_directory_store import NOW, DirectoryCase
from tests.certificates.test_store_contract import NAMES


class NamesTests(DirectoryCase):
    """Which names there are."""

    def test_names_by_any_prefix(self) -> None:
        """Whatever part of a name is asked for, wherever it ends, with others' files about."""
        store = self.store()
        for name in NAMES:
            self.result(store.put(name, b""))
        (self.path / "loop").symlink_to(self.path)
        (self.path / "folder.value").mkdir()
        (self.path / "folder.value" / "a.value").write_text("")
        prefixes = {name[:end] for name in NAMES for end in range(len(name) + 1)}
        more = {f"{prefix}{end}" for prefix in prefixes for end in ("/", "%", "*", ".", "x")}
        for prefix in prefixes | more | {"loop/", "loop/a", "folder.value/", "a.value", "b/c"}:
            self.assertEqual(
                self.result(store.names(prefix)),
                sorted(name for name in NAMES if name.startswith(prefix)),
            )

    def test_names_reads_what_it_needs(self) -> None:
        """Directories in which there can be none of those asked for are not read."""
        store = self.store()
        for word in ("apple", "apricot", "berry"):
            for number in range(3):
                self.result(store.put(f"tree/{word}/{number}", b""))
        read: list[str] = []
        scandir = os.scandir

        def noted(path: str) -> Any:
            read.append(os.path.relpath(path, self.path))
            return scandir(path)

        self.patch(os, "scandir", noted)
        for prefix, expected in (
            ("tree/berry/", ["tree/berry"]),
            ("tree/berry/1", ["tree/berry"]),
            ("tree/ap", ["tree", "tree/apple", "tree/apricot"]),
            ("tree/none/", []),
            ("none", ["."]),
            ("", [".", "tree", "tree/apple", "tree/apricot", "tree/berry"]),
        ):
            read.clear()
            self.result(store.names(prefix))
            self.assertEqual(sorted(read), expected)

    def test_names_of_a_disk_that_is_gone(self) -> None:
        """It is not as if there were none."""
        store = self.store()
        self.result(store.put("a/b", b""))
        self.path.rename(self.path.with_suffix(".away"))
        for prefix in ("", "a/", "a/b/c"):
            self.assertIn("No such file or directory", self.unavailable(store.names(prefix)))


class FolderTests(DirectoryCase):
    """Directories come and go with what is in them."""

    def test_empty_directories(self) -> None:
        """They are removed with the last value in them, and made again; not where a lease is."""
        store, other = self.store(), self.store()
        for name in ("orders/a/1", "orders/a/2", "orders/b", "held/c"):
            self.result(store.put(name, b""))
        self.result(store.lease("held/d", 10))

        def folders() -> list[str]:
            return sorted(
                os.path.relpath(each, self.path) for each in self.path.rglob("*") if each.is_dir()
            )

        self.result(store.delete("held/c"))
        self.result(store.delete("orders/a/1"))
        self.assertEqual(folders(), ["held", "held/d.lease", "orders", "orders/a"])
        self.result(other.delete("orders/a/2"))
        self.assertEqual(folders(), ["held", "held/d.lease", "orders"])
        self.result(store.delete("orders/b"))
        self.assertEqual(folders(), ["held", "held/d.lease"])
        self.result(other.put("orders/a/1", b"1"))
        self.assertEqual(self.result(store.get("orders/a/1")), b"1")

    def test_a_directory_that_is_removed_as_one_writes(self) -> None:
        """It is made again."""
        store = self.store()
        mkstemp, mkdir = tempfile.mkstemp, os.mkdir
        removed: list[str] = []

        def remove(folder: str) -> None:
            if len(removed) % 3 < 2:
                os.rmdir(folder)
            removed.append(folder)

        def late_mkstemp(**options: Any) -> Any:
            if os.path.basename(options["dir"]) == "a":
                remove(options["dir"])
            return mkstemp(**options)

        def late_mkdir(path: str, mode: int) -> None:
            if path.endswith(".lease"):
                remove(os.path.dirname(path))
            mkdir(path, mode)

        self.patch(tempfile, "mkstemp", late_mkstemp)
        self.patch(os, "mkdir", late_mkdir)
        self.result(store.put("a/b", b"1"))
        self.result(store.delete("a/b"))
        self.assertTrue(self.result(store.create("a/b", b"2")))
        self.result(store.delete("a/b"))
        self.assertIsNotNone(self.result(store.lease("a/c", 10)))
        self.assertEqual(len(removed), 9)

    def test_directories_that_were_empty_before(self) -> None:
        """They are removed when a store is made, unless one is about to write there."""
        store = self.store()
        self.result(store.put("orders/a", b""))
        self.result(store.lease("orders/c", 10))
        (self.path / "orders/c.lease/1").unlink()
        old = ["orders/b", "orders/d/e", "empty"]
        for name in (*old, "orders/young"):
            (self.path / name).mkdir(parents=True)
        for folder in (*map(self.path.joinpath, old), self.path / "orders/c.lease"):
            os.utime(folder, (NOW - 7200, NOW - 7200))
        self.store()
        self.assertEqual(
            sorted(each.name for each in self.path.rglob("*")),
            ["a.value", "c.lease", "orders", "young"],
        )
