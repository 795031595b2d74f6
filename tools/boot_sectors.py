"""Boot sectors for the test media: they say who they are and stop.

Assembled here, so that no binary is kept in git. Both run at 0000:7C00h in real mode as a boot sector does.
"""

from typing import Final

SECTOR: Final = 512
LOAD_ADDRESS: Final = 0x7C00
SECOND_ADDRESS: Final = 0x7E00
PACKET_ADDRESS: Final = 0x0600
SIGNATURE: Final = b"\x55\xaa"
GREETING: Final = "hello from a chain-loaded boot sector"

# Print the zero-terminated text at SI through INT 10h teletype output, then halt with interrupts off.
_SAY: Final = """
    xor ax, ax
    mov ds, ax
    cld
say:
    lodsb
    test al, al
    jz done
    mov ah, 0x0e
    mov bx, 7
    int 0x10
    jmp say
done:
    cli
    hlt
    jmp done
"""

# DL is the drive and DS:SI the partition table entry that we were loaded from (the MBR's contract with a boot sector).
# Read the sector after ours to 0000:7E00h through INT 13h, AH=42h, and go there. The address packet is built in memory:
# Keystone makes 32-bit pushes and far returns of the 16-bit ones.
_LOAD_SECOND: Final = f"""
    cli
    xor ax, ax
    mov ss, ax
    mov sp, {LOAD_ADDRESS}
    sti
    mov ecx, dword ptr [si + 8]
    inc ecx
    mov ds, ax
    mov si, {PACKET_ADDRESS}
    mov word ptr [si], 16
    mov word ptr [si + 2], 1
    mov word ptr [si + 4], {SECOND_ADDRESS}
    mov word ptr [si + 6], ax
    mov dword ptr [si + 8], ecx
    mov word ptr [si + 12], ax
    mov word ptr [si + 14], ax
    mov ah, 0x42
    int 0x13
    jc failed
    ljmp 0:{SECOND_ADDRESS}
failed:
    cli
    hlt
    jmp failed
"""


def greeting_sector(text: str, address: int = LOAD_ADDRESS) -> bytes:
    """A sector that prints `text` and halts for good."""
    code = _assemble(f"mov si, {LOAD_ADDRESS}\n" + _SAY, address)
    code = _assemble(f"mov si, {address + len(code)}\n" + _SAY, address)
    return _sector(code + text.encode("ascii") + b"\r\n\0")


def chained_partition() -> bytes:
    """Two sectors: a boot sector that loads the one after it, and that one, which prints a greeting."""
    return _sector(_assemble(_LOAD_SECOND, LOAD_ADDRESS)) + greeting_sector(
        "hello from the second sector", SECOND_ADDRESS
    )


def _sector(content: bytes) -> bytes:
    return content.ljust(SECTOR - len(SIGNATURE), b"\0") + SIGNATURE


def _assemble(source: str, address: int) -> bytes:
    from keystone import KS_ARCH_X86, KS_MODE_16, Ks

    encoding, _ = Ks(KS_ARCH_X86, KS_MODE_16).asm(source, addr=address, as_bytes=True)
    return bytes(encoding)
