"""`vmm images`: guests to try, downloaded from Debian and put together in a cache.

`vmm run` comes by this module, too, and does not wait for what only this command needs: that is imported where it is
used.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vmm.fetch.store import Collection

app = typer.Typer(help="Fetch guests to try.", no_args_is_help=True, add_completion=False)


class Bar:
    """One progress bar over steps of unlike length; where there is no terminal, nothing is drawn."""

    def __init__(self, console: "Console") -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<34}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console)
        self._task = self.progress.add_task("", total=1.0)
        self._from, self._to = 0.0, 0.0

    def step(self, text: str, until: float) -> None:
        """Start a step that takes the bar to `until`, 0 to 1."""
        self._from, self._to = self._to, until
        self.progress.update(self._task, description=text, completed=self._from)

    def inside(self, part: float) -> None:
        """How much of the step is done, 0 to 1."""
        self.progress.update(self._task, completed=self._from + (self._to - self._from) * part)


def fetch(collection: "Collection", directory: Path, console: "Console") -> bool:
    """Make a collection under a progress bar; whether there was anything to do. Raises: PackageError, OSError."""
    if directory.is_dir() and collection.is_complete(directory):
        return False
    bar = Bar(console)
    with bar.progress:
        return collection.fetch(directory, bar)


def fetch_all(program: str, collections: Sequence[tuple["Collection", Path]]) -> int:
    """Make collections and say where they are, on behalf of `program`; the return value is the exit status."""
    from rich.console import Console

    from vmm.fetch.debian import PackageError

    console = Console(stderr=True)
    for collection, directory in collections:
        try:
            made = fetch(collection, directory, console)
        except (PackageError, OSError) as error:
            print(f"{program}: {error}", file=sys.stderr)
            return 1
        print(f"{len(collection.recipes)} images {'made' if made else 'already there'} in {directory}")
    return 0


@app.callback()
def _group() -> None:
    """Fetch guests to try, from Debian's archive through apt; a Debian host is needed, root is not."""


@app.command("linux")
def fetch_linux(
    everything: Annotated[bool, typer.Option("--all", help="The Debian installer too (100 MB more).")] = False,
    only_print: Annotated[bool, typer.Option("--directory", help="Only print where the images are.")] = False,
) -> None:
    """Linux kernels for 32-bit processors and an initial file system of busybox."""
    from vmm.fetch import linux

    if only_print:
        print(linux.directory())
        return
    wanted = [linux.KERNELS, *([linux.INSTALLER] if everything else [])]
    if status := fetch_all("vmm", [(collection, linux.directory()) for collection in wanted]):
        raise typer.Exit(status)
    kernel, initramfs = linux.directory() / "vmlinuz-686", linux.directory() / linux.INITRAMFS
    print(f"vmm run --kernel {kernel} --initrd {initramfs} --append console=ttyS0 --serial stdio")
