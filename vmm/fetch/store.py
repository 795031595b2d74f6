"""Collections of images in the cache: made once, verified at each use, made anew when their recipes change.

Theory of operation. Packages come through apt, which checks their signatures, and are unpacked into a scratch
directory. Each recipe of a collection makes one image of them there; finished images move into the cache, and a
manifest with their SHA-256 goes last, so that an interrupted run leaves nothing that looks finished. A run that finds
all images as the manifest has them does nothing.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from vmm.fetch.debian import AptRoot, PackageError, Progress, locked, unpack

ARCHITECTURE: Final = "i386"
_TOOLS_DONE, _LISTS_DONE, _PACKAGES_DONE, _UNPACKED = 0.1, 0.3, 0.65, 0.75


class Steps(Protocol):
    """Where progress is shown."""

    def step(self, text: str, until: float) -> None:
        """Start a step that takes the whole to `until`, 0 to 1."""

    def inside(self, part: float) -> None:
        """How much of the step is done, 0 to 1."""


def _no_tools(*_words: object, **_environment: str) -> None:
    raise PackageError("this collection is made without tools")


@dataclass(frozen=True, slots=True)
class Kitchen:
    """What a recipe works with: unpacked packages, a scratch directory of its own, and a way to run host tools."""

    packages: Path
    scratch: Path
    run: Callable[..., None] = _no_tools

    def copy(self, inside: str, to: Path) -> None:
        """Take a file out of the packages. Raises: PackageError: it is not where it used to be."""
        shutil.copyfile(self.find(inside), to)

    def read(self, inside: str) -> bytes:
        """A file of the packages. Raises: PackageError: it is not where it used to be."""
        return self.find(inside).read_bytes()

    def find(self, pattern: str) -> Path:
        """The one file that a glob pattern names. Raises: PackageError: there is none, or there are several."""
        found = sorted(self.packages.glob(pattern))
        if len(found) != 1:
            have = f"{len(found)} files" if found else "nothing"
            raise PackageError(f"the packages have {have} at {pattern}; were they made for another release?")
        return found[0]


Recipe = Callable[[Kitchen, Path], None]


@dataclass(frozen=True, slots=True)
class Collection:
    """Images that are made and verified together.

    `version` is another one after every change to a recipe. `packages` chooses among what the archive has; `prepare`
    gets the host tools that `run` needs.
    """

    manifest: str
    version: str
    packages: Callable[[AptRoot], Sequence[str]]
    recipes: Mapping[str, Recipe]
    prepare: Callable[[Progress], None] = lambda _progress: None
    run: Callable[..., None] = _no_tools

    def is_complete(self, directory: Path) -> bool:
        """Whether every image is there as the manifest of this version has it."""
        try:
            manifest = json.loads((directory / self.manifest).read_text())
            images: dict[str, str] = manifest["images"]
            known = manifest["recipe"] == self.version and set(images) == set(self.recipes)
            return known and all(digest(directory / name) == expected for name, expected in images.items())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def fetch(self, directory: Path, steps: Steps) -> bool:
        """Make all images; whether there was anything to do. Raises: PackageError: something cannot be had."""
        with locked(directory):
            if self.is_complete(directory):
                return False
            with tempfile.TemporaryDirectory(dir=directory, prefix=".making-") as scratch:
                self._make_all(directory, Path(scratch), steps)
            return True

    def _make_all(self, directory: Path, scratch: Path, steps: Steps) -> None:
        steps.step("tools", _TOOLS_DONE)
        self.prepare(steps.inside)
        apt = AptRoot(scratch / "apt", ARCHITECTURE)
        steps.step("package lists", _LISTS_DONE)
        apt.update(steps.inside)
        names = self.packages(apt)
        steps.step(f"{len(names)} packages", _PACKAGES_DONE)
        files = apt.download(names, steps.inside)
        for number, file in enumerate(files, 1):
            steps.step(f"unpacking {file.name.split('_', 1)[0]}", _part(_PACKAGES_DONE, _UNPACKED, number, len(files)))
            unpack(file, scratch / "packages")
            steps.inside(1.0)
        images = {}
        for number, name in enumerate(self.recipes, 1):
            steps.step(name, _part(_UNPACKED, 1.0, number, len(self.recipes)))
            images[name] = self._make(name, directory, Kitchen(scratch / "packages", scratch / name, self.run))
            steps.inside(1.0)
        manifest = {"recipe": self.version, "packages": sorted(file.name for file in files), "images": images}
        (scratch / self.manifest).write_text(json.dumps(manifest, indent=2) + "\n")
        os.replace(scratch / self.manifest, directory / self.manifest)

    def _make(self, name: str, directory: Path, kitchen: Kitchen) -> str:
        """Make one image and move it into place; return its digest."""
        kitchen.scratch.mkdir()
        image, place = kitchen.scratch / f"image-{name}", directory / name
        self.recipes[name](kitchen, image)
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(image, place)
        return digest(place)


def _part(start: float, end: float, number: int, count: int) -> float:
    return start + (end - start) * number / count


def fixed(*names: str) -> Callable[[AptRoot], Sequence[str]]:
    """Exactly these packages."""
    return lambda _apt: names


def copied(inside: str) -> Recipe:
    """An image that a package has ready, under a name or a glob pattern."""
    return lambda kitchen, image: kitchen.copy(inside, image)


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of a directory's names, link targets and files, in hexadecimal."""
    if path.is_dir():
        lines = [f"{entry.relative_to(path)} {_entry_digest(entry)}\n" for entry in sorted(path.rglob("*"))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry_digest(entry: Path) -> str:
    if entry.is_symlink():
        return f"-> {os.readlink(entry)}"
    return "/" if entry.is_dir() else digest(entry)
