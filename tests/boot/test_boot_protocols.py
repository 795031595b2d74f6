"""How kernels are entered: programs of ours in kernel files, which tell through port E9h what they find."""

import struct
from pathlib import Path

import pytest

from firmware.assembler import assemble_text
from tests.firmware.kernels import HEADER_END, MIB, bzimage, field, note, pvh_elf

LINE = "one two=3"
INITRD = b"ramdisk" * 999
MEMORY = 16 * MIB

# Both 32-bit programs send ten words (EFLAGS, CR0, CS, DS, SS, EBX, EBP, ESI, EDI, and what the GDT's own segments read
# at 1 MiB, or 0) and then a page from the structure that they were handed.
_TELL = """
tell:                           # the dword in EAX
    mov ecx, 4
1:  out 0xE9, al
    shr eax, 8
    loop 1b
    ret
tell_page:                      # from ESI on
    mov ecx, 4096
    mov dx, 0xE9
1:  mov al, byte ptr [esi]
    out dx, al
    inc esi
    loop 1b
    mov al, 0
    out 0xF4, al
    hlt
"""
_REGISTERS = """
    mov esp, 0x8000
    pushfd
    pop eax
    call tell
    mov eax, cr0
    call tell
    mov eax, cs
    call tell
    mov eax, ds
    call tell
    mov eax, ss
    call tell
    mov eax, ebx
    call tell
    mov eax, ebp
    call tell
    mov eax, esi
    call tell
    mov eax, edi
    call tell
"""
_LINUX = f"""
    {_REGISTERS}
    mov ax, 0x18                # both selectors can be loaded again
    mov ds, ax
    mov ss, ax
    ljmp 0x10:reloaded
reloaded:
    mov eax, dword ptr [start]
    call tell
    jmp tell_page
"""
_PVH = f"""
    {_REGISTERS}
    str ax
    movzx eax, ax
    call tell
    mov esi, ebx
    jmp tell_page
"""
_REAL = """
    .code16
    mov bx, sp
    mov ax, cs
    call say
    mov ax, ds
    call say
    mov ax, ss
    call say
    mov ax, es
    call say
    mov ax, bx
    call say
    pushf
    pop ax
    call say
    xor si, si
    mov cx, 0x400
1:  mov al, byte ptr [si]
    out 0xE9, al
    inc si
    loop 1b
    mov al, 0
    out 0xF4, al
    hlt
say:
    out 0xE9, al
    mov al, ah
    out 0xE9, al
    ret
"""


def program(text: str, origin: int, bits: int) -> bytes:
    made = assemble_text(f"start:\n{text}{_TELL if bits == 32 else ''}", origin, bits)
    end = max(piece.address + len(piece.code) for piece in made.placed)
    return made.image(origin, end - origin)


@pytest.fixture
def told(vmm, tmp_path):
    """Return `told(kernel, *words)`: what the kernel said."""

    def run(kernel: bytes, *words: object) -> bytes:
        (tmp_path / "kernel").write_bytes(kernel)
        (tmp_path / "initrd").write_bytes(INITRD)
        given = ["--kernel", tmp_path / "kernel", "--append", LINE, "--initrd", tmp_path / "initrd", *words]
        done = vmm(*given, "--memory", "16M", "--exit-port", "--debugcon", "told", "--screenshot", "screen.txt")
        assert done.status == 1, done.err
        return (tmp_path / "told").read_bytes()

    return run


def test_linux_is_entered_as_the_32_bit_boot_protocol_says(told, tmp_path: Path):
    code = program(_LINUX, MIB, 32)
    said = told(bzimage(code))
    flags, cr0, cs, ds, ss, ebx, ebp, esi, edi, first = struct.unpack_from("<10I", said)
    assert (flags & 0x200, cr0 & 0x8000_0001, cs, ds, ss) == (0, 1, 0x10, 0x18, 0x18)
    assert (ebx, ebp, edi) == (0, 0, 0)
    assert first == int.from_bytes(code[:4], "little")
    page = said[40:]
    assert field(page, "cmd_line_ptr") == esi + 4096 + 32
    assert field(page, "ramdisk_size") == len(INITRD)
    assert field(page, "ramdisk_image") + len(INITRD) <= MEMORY
    entries = list(struct.iter_unpack("<QQI", page[0x2D0 : 0x2D0 + 20 * page[0x1E8]]))
    assert (MIB, MEMORY - MIB, 1) in entries
    assert (0, 0x9FC00, 1) in entries
    assert (page[6], page[7], page[0xE], page[0xF], page[0x10]) == (3, 80, 25, 1, 16)
    lines = (tmp_path / "screen.txt").read_text().splitlines()
    assert page[1] == sum(1 for line in lines if line.strip())  # the cursor is below what POST wrote


def test_a_pvh_kernel_is_entered_with_start_info_in_ebx(told):
    said = told(pvh_elf(program(_PVH, MIB, 32), note(b"Xen", 18, struct.pack("<I", MIB))))
    flags, cr0, _, _, _, ebx, *_ = struct.unpack_from("<10I", said)
    assert (flags & 0x2_0300, cr0 & 0x8000_0001) == (0, 1)
    magic, version, _, modules, list_at, line_at, _, map_at, entries, _ = struct.unpack_from("<4I4QII", said, 40)
    assert (magic, version, modules) == (0x336EC578, 1, 1)
    page = said[40:]
    assert page[line_at - ebx :].startswith(LINE.encode() + b"\0")
    start, size, *_ = struct.unpack_from("<4Q", page, list_at - ebx)
    assert (start % 4096, size, start + size <= MEMORY) == (0, len(INITRD), True)
    ranges = list(struct.iter_unpack("<QQII", page[map_at - ebx : map_at - ebx + 24 * entries]))
    assert (MIB, MEMORY - MIB, 1, 0) in ranges


@pytest.mark.parametrize(("loadflags", "segment"), [(0, 0x9000), (1, 0x1000)])
def test_what_has_no_32_bit_entry_is_entered_in_its_setup_code(told, loadflags, segment):
    jump = HEADER_END - 0x200  # IP where the header's own jump leads
    setup = program(_REAL, jump, 16)
    said = told(bzimage(bytes(64), setup=setup, loadflags=loadflags, code32_start=0))
    cs, ds, ss, es, sp, flags = struct.unpack_from("<6H", said)
    assert (cs, ds, ss, es) == (segment + 0x20, segment, segment, segment)
    assert (sp, flags & 0x200) == (field(said[12:], "heap_end_ptr") + 0x200, 0)
    assert field(said[12:], "loadflags") == loadflags | 0x80
    assert field(said[12:], "ramdisk_size") == len(INITRD)
