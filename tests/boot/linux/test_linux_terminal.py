"""Linux at a terminal: keys, Ctrl-C, full-screen programs, pasted text, the console on VGA."""

import hashlib
from typing import Final

import pytest

from tests.boot.conftest import command
from tests.boot.linux.guests import BASE, INITRAMFS, LIMIT, READY, linux_image
from tests.boot.linux.terminal import Terminal

pytestmark = pytest.mark.boot

CTRL_C: Final = "\x03"
CTRL_D: Final = "\x04"
ESC: Final = "\x1b"


def _words() -> list[str]:
    files = ("--kernel", linux_image("vmlinux-686-pae"), "--initrd", linux_image(INITRAMFS))
    return command(*files, "--append", BASE, "--memory", "128M", "--serial", "stdio", "--timeout", LIMIT)


def talk(terminal: Terminal) -> None:
    """Type at a shell as a person does."""
    terminal.expect(READY)
    terminal.expect("# ")
    terminal.type("echo $((6 * 7)) is the answer\r")
    terminal.expect(r"^42 is the answer\r")
    terminal.type("sh -c 'echo waits; exec sleep 1000'\r")
    terminal.expect(r"^waits\r")  # a Ctrl-C that is faster than the shell's fork is the shell's
    terminal.type(CTRL_C)
    terminal.expect("# ")
    terminal.type("echo status $?\r")
    terminal.expect(r"^status 130\r")
    terminal.type("vi /tmp/letter\r")
    terminal.expect(r"/tmp/letter.*1/1")
    terminal.type("ihello from vi")
    terminal.expect("hello from vi")
    terminal.type(ESC)
    terminal.expect(r"- /tmp/letter")
    terminal.type(":wq\r")
    terminal.expect("# ")
    terminal.type("cat /tmp/letter\r")
    terminal.expect(r"^hello from vi\r")
    terminal.type("top\r")
    terminal.expect(r"Mem: .*\d+K used")
    terminal.expect(r"\bPID\b.*COMMAND")
    terminal.type("q")
    terminal.expect("# ")
    terminal.type("exit\r")
    terminal.expect("GLASSVISOR-END shell 0")


@pytest.mark.slow
def test_a_person_at_the_terminal(tmp_path):
    with Terminal(_words(), tmp_path) as terminal:
        talk(terminal)
        assert terminal.status() == 0


def paste(terminal: Terminal) -> None:
    """Give the shell two hundred lines at once; expect it to have them all."""
    text = "".join(f"{number:04d} the quick brown fox\r" for number in range(200))
    terminal.expect(READY)
    terminal.expect("# ")
    terminal.type("stty -echo; cat > /tmp/pasted\r")
    terminal.expect(r"pasted\s*\n")
    terminal.type(f"{text}{CTRL_D}")
    terminal.type("md5sum < /tmp/pasted\r")
    terminal.expect(hashlib.md5(text.replace("\r", "\n").encode()).hexdigest())


def test_pasted_text_arrives_whole(tmp_path):
    with Terminal(_words(), tmp_path) as terminal:
        paste(terminal)


@pytest.mark.slow
def test_the_console_on_vga_text(vmm, tmp_path):
    """With the bzImage: PVH tells a kernel nothing of the screen, and Linux then has no VGA console, on QEMU neither."""
    script = tmp_path / "keys.txt"
    script.write_text(
        f"expect screen {READY}\nexpect screen ^/ #$\nsend echo hello from $((40 + 2))\\n\n"
        "expect screen ^hello from 42$\nscreenshot at-work.txt\nsend exit\\n\nexpect screen GLASSVISOR-END shell 0\n"
    )
    files = ("--kernel", linux_image("vmlinuz-686"), "--initrd", linux_image(INITRAMFS))
    append = BASE.replace("console=ttyS0", "console=tty0")
    run = vmm(*files, "--append", append, "--script", script, "--screenshot", "screen.txt", timeout=LIMIT)
    assert run.status == 0, run.err
    assert "hello from 42\n" in run.text("at-work.txt")
