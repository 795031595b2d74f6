"""Debian packages without root: downloaded by apt, checked by apt, unpacked into a directory.

Theory of operation. apt works on whatever state and cache directories it is told to, so a private set of them needs no
privilege and leaves the host's package database alone. The archive and the suite are the ones that the host's own
sources name; apt checks the release file's signature with the host's Debian keyring, and every package against it.
With an empty package database apt resolves all dependencies of a package, with a copy of the host's only what the
host lacks.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_TRUSTED: Final = Path("/etc/apt/trusted.gpg.d")
HOST_STATUS: Final = Path("/var/lib/dpkg/status")
SUITE: Final = "bookworm"  # the release that the image recipes were written for
ERROR_LINES: Final = 4

Progress = Callable[[float], None]


class PackageError(Exception):
    """Something that stands between us and a package; the message is for the user."""


def cache_directory(name: str) -> Path:
    """`glassvisor/NAME` under the user's cache directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "glassvisor" / name


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for this process; a second one waits."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class AptRoot:
    """A private apt: its own state and cache in `directory`, for one architecture.

    `knows_host` decides whether what the host has installed counts as present.
    """

    directory: Path
    architecture: str
    knows_host: bool = False

    @property
    def archives(self) -> Path:
        return self.directory / "cache" / "archives"

    def update(self, progress: Progress) -> None:
        """Fetch the package lists. Raises: PackageError: the archive does not answer or its signature is wrong."""
        self._lay_out()
        self._apt(["update"], progress, "the Debian archive does not answer as it should")

    def download(self, packages: Sequence[str], progress: Progress) -> list[Path]:
        """Fetch exactly these packages; return the .deb files in the same order."""
        self._apt(["download", *packages], progress, f"cannot download {' '.join(packages)}")
        files = {path.name.split("_", 1)[0]: path for path in sorted(self.archives.glob("*.deb"), key=_age)}
        return [files[name] for name in packages]

    def download_with_dependencies(self, packages: Sequence[str], progress: Progress) -> list[Path]:
        """Fetch these packages and what they need; return all .deb files."""
        command = ["install", "--download-only", "--no-install-recommends", "--yes", *packages]
        self._apt(command, progress, f"cannot download {' '.join(packages)}")
        return sorted(self.archives.glob("*.deb"))

    def depended_on(self, package: str) -> list[str]:
        """The packages that one depends on directly. Raises: PackageError: it depends on none, or is not known."""
        command = ["apt-cache", "-c", str(self._settings), "depends", "--important", package]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_plain_environment())
        lines = [line.split() for line in done.stdout.splitlines()]
        names = [words[1] for words in lines if words[:1] == ["Depends:"] and not words[1].startswith("<")]
        if not names:
            raise PackageError(f"the Debian archive has no package {package} that names others")
        return names

    @property
    def _settings(self) -> Path:
        return self.directory / "apt.conf"

    def _lay_out(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        status = self.directory / "state" / "status"
        if self.knows_host and HOST_STATUS.exists():
            shutil.copyfile(HOST_STATUS, status)
        else:
            status.write_text("")
        options = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        (self.directory / "etc" / "sources.list").write_text(f"deb {options}{archive_uri()} {SUITE} main\n")
        self._settings.write_text(self._configuration())

    def _configuration(self) -> str:
        """Read after the host's own configuration, so that its proxies hold and its hooks do not."""
        root = self.directory
        settings = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",  # whoever we are; _apt could not write here
            "APT::Update::Error-Mode": "any",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
            "Dir::State": f"{root}/state",
            "Dir::State::status": f"{root}/state/status",
            "Dir::Cache": f"{root}/cache",
            "Dir::Etc::sourcelist": f"{root}/etc/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": f"{root}/etc/preferences.d",
            "Dir::Etc::trustedparts": str(HOST_TRUSTED),
            "Dir::Log": f"{root}",
            "Debug::NoLocking": "true",  # the directory has a lock of its own
        }
        hooks = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
        cleared = ("APT::Architectures", *hooks, "DPkg::Post-Invoke", "DPkg::Pre-Install-Pkgs")
        lines = [f"#clear {name};" for name in cleared]
        return "\n".join(lines + [f'{name} "{value}";' for name, value in settings.items()]) + "\n"

    def _apt(self, arguments: Sequence[str], progress: Progress, failure: str) -> None:
        """Run apt-get and report its progress, 0 to 1. Raises: PackageError with apt's own words."""
        reader, writer = os.pipe()
        command = [
            "apt-get",
            "-q",
            "-c",
            str(self._settings),
            "-o",
            f"APT::Status-Fd={writer}",
            *arguments,
        ]
        with _started(command, self.archives, writer) as process:
            os.close(writer)
            with os.fdopen(reader, encoding="utf-8", errors="replace") as status:
                for line in status:
                    _report(line, progress)
            errors = process.communicate()[1]
        if process.returncode:
            raise PackageError(f"{failure}: {_last_words(errors)}")
        progress(1.0)


def archive_uri() -> str:
    """The Debian archive that the host's apt sources name.

    Raises: PackageError: this is no Debian host, or it names none for our suite.
    """
    wanted = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY)"
    try:
        done = subprocess.run(
            ["apt-get", "indextargets", "--format", wanted], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise PackageError("apt-get is not here: this needs a Debian host") from None
    rows = [line.split() for line in done.stdout.splitlines()]
    named = [row[0] for row in rows if row[1:] == [SUITE, "main", "Packages"]]
    if not named:
        raise PackageError(f"the apt sources of this host name no archive with 'deb URI {SUITE} main'; add one")
    return named[0]


def host_architecture() -> str:
    """The host's architecture in Debian's words."""
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def unpack(package: Path, directory: Path) -> None:
    """Unpack one .deb. Raises: PackageError: it is damaged."""
    done = subprocess.run(["dpkg-deb", "-x", str(package), str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(f"cannot unpack {package.name}: {_last_words(done.stderr)}")


def _started(command: Sequence[str], directory: Path, writer: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=directory,
        pass_fds=[writer],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=_plain_environment(),
    )


def _plain_environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _report(line: str, progress: Progress) -> None:
    """A line such as `dlstatus:1:42.5:Retrieving file 1 of 2` (apt's README.progress-reporting)."""
    kind, _, rest = line.partition(":")
    fields = rest.split(":")
    if kind == "dlstatus" and len(fields) > 1:
        progress(min(1.0, float(fields[1]) / 100))


def _last_words(errors: str) -> str:
    """The error lines in one, without apt's prefixes; where there are none, whatever came last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    marked = [line.partition(":")[2].strip() for line in lines if line.startswith(("E:", "W:"))]
    return "; ".join(dict.fromkeys(marked[:ERROR_LINES] or lines[-1:])) or "no reason given"


def _age(path: Path) -> float:
    return path.stat().st_mtime
