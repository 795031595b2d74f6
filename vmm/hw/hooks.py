"""Host code that the engine calls: hooks as machine code, for what must be exact, or is done at every exit.

System V calling convention on x86-64. A hook lives as long as its object.
"""

import ctypes
import mmap
from collections.abc import Callable
from typing import Any, Final

from unicorn.unicorn_py3.unicorn import uclib

from vmm.hw import state as hw

NEVER: Final = (1 << 63) - 1
_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_UD: Final = 6
_NO_EXCEPTION: Final = b"\xff\xff\xff\xff"


def executable(code: bytes) -> tuple[mmap.mmap, int]:
    """Memory that holds the code, and the code's address."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _quad(value: int | None) -> bytes:
    return (value or 0).to_bytes(8, "little")


def _address(function: Any) -> bytes:
    return _quad(ctypes.cast(function, ctypes.c_void_p).value)


class ExitHook:
    """`entry` is for UC_HOOK_INTR: save the engine's state into `context`, call back with the vector, restore it.

    Python makes an exit a microsecond dearer when it does these two calls. Two fields are put right on the way: the
    engine never clears `old_exception`, so that the next fault would become a double fault, and a stale
    `exception_is_int` makes later exits report the wrong EIP. `invalid_entry` is for UC_HOOK_INSN_INVALID: the same
    with vector 6, and true, so that the engine goes on. The callback must not raise.

    `quick[0]` is the address of host code int(void), or 0: an exit with the vector in `quick[1]` asks it first. If it
    returns 1 it has changed the saved state as it should be, and nobody is called back.
    """

    def __init__(self, handle: Any, context: Any, callback: Callable[[int, int, int], None]) -> None:
        self._callback = _CALLBACK(callback)
        self.quick = (ctypes.c_uint64 * 2)(0, 0)
        state = context.value + hw.HEADER
        arguments = b"\x48\xbf" + _quad(handle.value) + b"\x48\xbe" + _quad(context.value)
        back_to_python = (
            b"\x31\xff\x89\xde\x31\xd2"                # xor edi, edi; mov esi, ebx; xor edx, edx
            + b"\x48\xb8" + _address(self._callback) + b"\xff\xd0"  # mov rax, callback; call rax
        )  # fmt: skip
        ask = b"\xff\xd0\x85\xc0\x75" + bytes([len(back_to_python)])  # call rax; test eax, eax; jne restored
        code = (
            b"\x53\x89\xf3"                              # push rbx; mov ebx, esi
            + arguments                                 # mov rdi, handle; mov rsi, context
            + b"\x48\xb8" + _address(uclib.uc_context_save) + b"\xff\xd0"  # mov rax, uc_context_save; call rax
            + b"\x48\xb8" + _quad(state + 4 * hw.D_OLD_EXCEPTION)
            + b"\xc7\x00" + _NO_EXCEPTION               # mov dword ptr [rax], -1
            + b"\x48\xb8" + _quad(state + 4 * hw.D_EXCEPTION_IS_INT)
            + b"\xc7\x00\0\0\0\0"                        # mov dword ptr [rax], 0
            + b"\x48\xb8" + _quad(ctypes.addressof(self.quick))  # mov rax, quick
            + b"\x3b\x58\x08\x75" + bytes([8 + len(ask)])  # cmp ebx, [rax + 8]; jne back
            + b"\x48\x8b\x00\x48\x85\xc0\x74" + bytes([len(ask)])  # mov rax, [rax]; test rax, rax; je back
            + ask + back_to_python
            + arguments                                 # restored:
            + b"\x48\xb8" + _address(uclib.uc_context_restore)
            + b"\x5b\xff\xe0"                            # pop rbx; jmp rax
        )  # fmt: skip
        invalid = b"\x48\x83\xec\x08\xbe" + _UD.to_bytes(4, "little")  # sub rsp, 8; mov esi, 6
        back = len(code) + len(invalid) + 5
        invalid += (
            b"\xe8" + (-back).to_bytes(4, "little", signed=True)  # call entry
            + b"\xb8\x01\0\0\0\x48\x83\xc4\x08\xc3"    # mov eax, 1; add rsp, 8; ret
        )  # fmt: skip
        self._code, self.entry = executable(code + invalid)
        self.invalid_entry = self.entry + len(code)


class StopRing:
    """A host function void(int), usable as a signal handler, that makes a run end at the next start of a block.

    `cells[0]` becomes 1: somebody asked. While `cells[1]` is 0 it also asks the engine, by `uc_emu_stop`, which is
    exact since the engine looks at the start of a block only (`vmm.hw.polls`). Where blocks are counted it leaves that
    to the block hook, whose cells follow: a count of blocks, a limit, and whether to count.
    """

    def __init__(self, handle: Any) -> None:
        self.cells = (ctypes.c_uint64 * 5)(0, 0, 0, NEVER, 0)
        code = (
            b"\x48\xb8" + _quad(ctypes.addressof(self.cells))  # mov rax, cells
            + b"\xc7\x00\x01\0\0\0"                     # mov dword ptr [rax], 1
            + b"\x83\x78\x08\x00\x75\x16"                # cmp dword ptr [rax + 8], 0; jne counted
            + b"\x48\xbf" + _quad(handle.value)            # mov rdi, handle
            + b"\x48\xb8" + _address(uclib.uc_emu_stop)     # mov rax, uc_emu_stop
            + b"\xff\xe0"                                  # jmp rax
            + b"\x48\xc7\x40\x18\0\0\0\0"                # counted: mov qword ptr [rax + 24], 0
            + b"\xc7\x40\x20\x01\0\0\0\xc3"              # mov dword ptr [rax + 32], 1; ret
        )  # fmt: skip
        self._code, self.entry = executable(code)


class BlockHook:
    """Host code for UC_HOOK_BLOCK: count the block; at the limit, tail-call `uc_emu_stop`.

    `cells` are the last three of a `StopRing`. While the third is 0 nothing is counted, for the count in memory makes
    each block wait for the one before. RDI holds the engine handle, for the callee as for us.
    """

    def __init__(self, cells: Any) -> None:
        code = (
            b"\x48\xb8" + _quad(ctypes.addressof(cells) + 16)  # mov rax, cells
            + b"\x83\x78\x10\x00"                      # cmp dword ptr [rax + 16], 0
            + b"\x75\x01\xc3"                          # jne count; ret
            + b"\x48\xff\x00"                          # count: inc qword ptr [rax]
            + b"\x48\x8b\x08"                          # mov rcx, [rax]
            + b"\x48\x3b\x48\x08"                      # cmp rcx, [rax + 8]
            + b"\x73\x01\xc3"                          # jae stop; ret
            + b"\x48\xb8" + _address(uclib.uc_emu_stop)  # stop: mov rax, uc_emu_stop
            + b"\xff\xe0"                              # jmp rax
        )  # fmt: skip
        self._code, self.entry = executable(code)


class InstructionHook:
    """Host code for UC_HOOK_CODE: count the instruction, or one iteration of a string instruction, in `cells[0]`."""

    def __init__(self) -> None:
        self.cells = (ctypes.c_uint64 * 1)()
        self._code, self.entry = executable(
            b"\x48\xb8" + _quad(ctypes.addressof(self.cells))  # mov rax, cells
            + b"\x48\xff\x00\xc3"                      # inc qword ptr [rax]; ret
        )  # fmt: skip


class AuditHook:
    """Host code for UC_HOOK_BLOCK: stop at a block outside two ranges, or at CPL 0.

    `cells`: base and size of each range, 1 after a failure, the latest block's address. CPL is in `hflags`, which only
    a saved context shows, so each block saves one. RDI holds the engine handle, RSI the address.
    """

    def __init__(self, context: Any) -> None:
        self.cells = (ctypes.c_uint64 * 6)(0, 0, 0, 0, 0, 0)
        cells = _quad(ctypes.addressof(self.cells))
        save, stop = _address(uclib.uc_context_save), _address(uclib.uc_emu_stop)
        hflags = _quad(context.value + hw.HEADER + 4 * hw.D_HFLAGS)
        bad = (
            b"\x48\xb9" + cells                         # bad: mov rcx, cells
            + b"\x48\xc7\x41\x20\x01\0\0\0"             # mov qword ptr [rcx + 32], 1
            + b"\x48\x89\xdf\x5b"                       # mov rdi, rbx; pop rbx
            + b"\x48\xb8" + stop + b"\xff\xe0"           # mov rax, uc_emu_stop; jmp rax
        )  # fmt: skip
        check_cpl = (
            b"\x48\x89\xdf"                             # inside: mov rdi, rbx
            + b"\x48\xbe" + _quad(context.value)        # mov rsi, context
            + b"\x48\xb8" + save + b"\xff\xd0"           # mov rax, uc_context_save; call rax
            + b"\x48\xb8" + hflags                      # mov rax, hflags
            + b"\xf6\x00\x03\x74\x02"                   # test byte ptr [rax], 3; jz bad
            + b"\x5b\xc3"                               # pop rbx; ret
        )  # fmt: skip
        second = b"\x48\x89\xc2\x48\x2b\x51\x10\x48\x3b\x51\x18\x73" + bytes([len(check_cpl)])
        # the same for the second range: mov rdx, rax; sub rdx, [rcx + 16]; cmp rdx, [rcx + 24]; jae bad
        self._code, self.entry = executable(
            b"\x53\x48\x89\xfb\x89\xf0"                  # push rbx; mov rbx, rdi; mov eax, esi
            + b"\x48\xb9" + cells                       # mov rcx, cells
            + b"\x48\x89\x41\x28"                       # mov [rcx + 40], rax
            + b"\x48\x89\xc2\x48\x2b\x11"               # mov rdx, rax; sub rdx, [rcx]
            + b"\x48\x3b\x51\x08\x72" + bytes([len(second)])  # cmp rdx, [rcx + 8]; jb inside
            + second + check_cpl + bad
        )  # fmt: skip
