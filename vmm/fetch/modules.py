"""Kernel modules and what they need.

Debian's kernel packages have no `modules.dep`: depmod writes it where they are installed. A module names what it
needs in its `.modinfo` section, as strings `depends=NAME,NAME`. `-` and `_` are the same in names.

Source: modules.dep(5); modinfo(8).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from vmm.fetch.debian import PackageError

_DEPENDS: Final = b"\0depends="


def closure(tree: Path, names: Sequence[str]) -> dict[Path, list[Path]]:
    """Modules below `tree` and all they need, each after those; the values are what each needs, the last to load first.

    Raises: PackageError: there is no module of a name.
    """
    files = {path.stem.replace("-", "_"): path for path in tree.rglob("*.ko")}
    found: dict[Path, list[Path]] = {}

    def visit(name: str) -> set[Path]:
        path = files.get(name.replace("-", "_"))
        if path is None:
            raise PackageError(f"the kernel package has no module {name}")
        if path not in found:
            below = {file for need in needs(path.read_bytes()) for file in visit(need)}
            found[path] = [file for file in reversed(found) if file in below]
        return {path, *found[path]}

    for name in names:
        visit(name)
    return found


def needs(module: bytes) -> Iterator[str]:
    """The names of the modules that this one needs."""
    start = module.find(_DEPENDS)
    if start < 0:
        raise PackageError("a kernel module does not say what it depends on")
    start += len(_DEPENDS)
    return (name for name in module[start : module.index(b"\0", start)].decode().split(",") if name)


def dependency_file(found: dict[Path, list[Path]], tree: Path) -> str:
    """The text of `modules.dep` for these modules, with paths relative to `tree`."""
    names = {path: str(path.relative_to(tree)) for path in found}
    return "".join(f"{' '.join([f'{names[path]}:', *(names[need] for need in found[path])])}\n" for path in found)
