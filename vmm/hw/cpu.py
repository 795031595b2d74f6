"""The physical CPU: Unicorn, with its whole state one microsecond away.

Theory of operation. A run (`run`) enters the engine once. Every exception and every `int n` of the code that runs
arrives at the interrupt hook, where `on_exit(vector)` sees the state as an overlay (`state`), changes it, and
returns: the engine continues at the state as changed, without a stop and a restart. Two things end a run: `leave()`
inside the hook, and the ring, a few bytes of host code for a signal handler: the engine looks at the start of each
block whether it was asked to stop. Where runs must be repeatable, a native block hook counts the blocks that start
instead, and stops the engine exactly at the one whose number reaches a limit.

EFLAGS. While code runs, the arithmetic flags and DF are lazy (`cc_*`, `df`) and absent from `eflags`; outside a run
they are in `eflags`. `run` and its end convert, so everybody else sees the lazy form at all times.
"""

import ctypes
import platform
from collections.abc import Callable
from typing import Any, Final

import unicorn
from unicorn import unicorn_const as uc_const
from unicorn import x86_const
from unicorn.unicorn_py3.unicorn import uclib

import vmm.hw.flags  # what they change is changed before the first processor is made
import vmm.hw.host_fpu
import vmm.hw.traps
import vmm.hw.tsc  # noqa: F401
from vmm.arch.layout import MASK32
from vmm.arch.registers import ARITHMETIC, Cr0, Cr4, Eflags
from vmm.errors import EngineMismatch, VmmError
from vmm.hw import polls
from vmm.hw import state as hw
from vmm.hw.calibrate import check_layout
from vmm.hw.hooks import NEVER, AuditHook, BlockHook, ExitHook, InstructionHook, StopRing, executable
from vmm.hw.mapping import PhysicalMap, Run
from vmm.hw.memory import PhysicalMemory
from vmm.hw.state import CpuState

SUPPORTED_ENGINE: Final = "2.1.4"
TCG_BUFFER: Final = 64 << 20
EFLAGS_REGISTER: Final = int(x86_const.UC_X86_REG_EFLAGS)
"""What `reg_read` knows EFLAGS by."""

_DF: Final = int(Eflags.DF)
_ASKED, _COUNTED, _BLOCKS, _LIMIT, _COUNTING = range(5)
"""Cells of the ring and the block hook."""


def _ctl_code(control: int, direction: int, arguments: int) -> int:
    return control | arguments << 26 | direction << 30


def _blob_of(pointer: Any) -> memoryview:
    """The processor state behind the header of a saved context."""
    return memoryview((ctypes.c_ubyte * hw.STATE_SIZE).from_address(pointer.value + hw.HEADER))


def power_on_state() -> bytes:
    """The processor state that the engine starts with: for virtual CPUs that have not met a physical one."""
    context = unicorn.Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_32).context_save()
    return bytes(_blob_of(context.context))


class PhysicalCpu:
    """One x86 processor, in 32-bit mode, with paging as its owner set it up.

    `on_exit(vector)` runs inside the engine's interrupt hook; `state` then holds the processor's state and is written
    back when it returns. Exceptions that it raises end the run and surface from `run`. `memory` lies at address 0;
    without it the owner says what is where, by `map`.
    """

    def __init__(self, memory: PhysicalMemory | None = None, tcg_buffer: int = TCG_BUFFER) -> None:
        if platform.machine() != "x86_64":
            raise EngineMismatch(f"host processor: {platform.machine()} given, x86_64 expected (the native block hook)")
        if unicorn.__version__ != SUPPORTED_ENGINE:
            raise EngineMismatch(f"unicorn {unicorn.__version__} given, {SUPPORTED_ENGINE} expected")
        check_layout()
        polls.remove()
        self._uc = unicorn.Uc(uc_const.UC_ARCH_X86, uc_const.UC_MODE_32)
        self._handle = self._uc._uch
        self._uc.ctl_set_tcg_buffer_size(tcg_buffer)
        self.map = PhysicalMap(self._handle, self._add_hook, self._fail)
        if memory is not None:
            self.map.show([Run(0, memory.size, memory.address)])
        self._uc.ctl_exits_enabled(True)
        self._context = self._uc.context_save()
        self._context_pointer = self._context.context
        self.state = CpuState(_blob_of(self._context_pointer))
        self.power_on = bytes(self.state.buffer)
        self._service = self._uc.context_save()
        self._service_pointer = self._service.context
        self._service_state = CpuState(_blob_of(self._service_pointer))
        self._probe = self._uc.context_save()
        self.on_exit: Callable[[int], None] = self._unexpected
        self._error: BaseException | None = None
        self._left = False
        self._flags_cell = ctypes.c_uint64()
        self._ring = StopRing(self._handle)
        self._block_hook: BlockHook | None = None
        self._instruction_hook: InstructionHook | None = None
        self._exit_hook = ExitHook(self._handle, self._context_pointer, self._exit)
        self._add_hook(uc_const.UC_HOOK_INTR, self._exit_hook.entry)
        self._add_hook(uc_const.UC_HOOK_INSN_INVALID, self._exit_hook.invalid_entry)
        self._audit: AuditHook | None = None

    # --- running ---------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Enter the engine at `state` until `leave()`; True if the ring or the block limit ended it."""
        self._left = False
        self._error = None
        asked = self._ring.cells
        if asked[_ASKED] and not asked[_COUNTED]:
            asked[_ASKED] = 0
            return True
        self._fold_into_eflags()
        self.write()
        status = self._enter()
        while status in _GOES_ON and not self._left:
            self.read()
            if status == _NO_CODE:
                self.map.allow_fetches()
                self.forget_all_code()
            status = self._enter()
        asked[_ASKED] = 0
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if status not in (uc_const.UC_ERR_OK, _ROM_WRITTEN):
            self.read()
            reason = uclib.uc_strerror(status).decode()
            raise VmmError(f"the engine stopped: {reason} at {self.state.q[hw.Q_EIP]:#x}")
        if self._left:
            return False
        self.read()
        self._unfold_from_eflags()
        return True

    def _enter(self) -> int:
        status: int = uclib.uc_emu_start(self._handle, self.state.q[hw.Q_EIP] & MASK32, 0, 0, 0)
        return status

    def leave(self) -> None:
        """Inside `on_exit`: end the run after the state has been written back."""
        flags = self.fold_flags()
        state = self.state
        state.d[hw.D_CC_OP] = hw.CC_OP_EFLAGS
        state.q[hw.Q_CC_SRC] = flags & ARITHMETIC
        state.d[hw.D_DF] = MASK32 if flags & _DF else 1
        self._left = True
        uclib.uc_emu_stop(self._handle)

    def stop_at_next_block(self) -> None:
        """Inside an answer to an access of `map`: end the run, as the ring does, before the next block starts."""
        uclib.uc_emu_stop(self._handle)

    def read(self) -> None:
        """Copy the engine's state into `state`."""
        uclib.uc_context_save(self._handle, self._context_pointer)

    def write(self) -> None:
        """Copy `state` into the engine."""
        uclib.uc_context_restore(self._handle, self._context_pointer)

    def fold_flags(self) -> int:
        """Inside the hook: the arithmetic flags and DF, out of the lazy form in the engine or in `state`."""
        state = self.state
        if state.d[hw.D_CC_OP] == hw.CC_OP_EFLAGS:
            return state.q[hw.Q_CC_SRC] & ARITHMETIC | (_DF if state.d[hw.D_DF] == MASK32 else 0)
        uclib.uc_reg_read(self._handle, x86_const.UC_X86_REG_EFLAGS, ctypes.byref(self._flags_cell))
        return self._flags_cell.value & (ARITHMETIC | _DF)

    def answer_quickly(self, vector: int, code: bytes) -> None:
        """From now on ask host code, position-independent and of type int(void), at each exit with a vector, before
        `on_exit`: it returns 1 if it has brought the saved state to where the guest goes on.
        """
        quick = self._exit_hook.quick
        self._quick_code, quick[0] = executable(code)
        quick[1] = vector

    @property
    def saved_state(self) -> int:
        """Host address of what `state` shows, for `answer_quickly`."""
        return int(self._context_pointer.value) + hw.HEADER

    @property
    def handle(self) -> int:
        """The engine's, for `answer_quickly`."""
        return int(self._handle.value)

    @property
    def reg_read(self) -> int:
        """Host address of int(handle, register, void *value), which folds the lazy flags, for `answer_quickly`."""
        return int(ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value or 0)

    # --- stopping --------------------------------------------------------------------------------------

    @property
    def counts_blocks(self) -> bool:
        """Have blocks been counted, so that each of them calls the block hook?"""
        return self._block_hook is not None

    @property
    def blocks(self) -> int:
        """How many blocks have started since `set_block_limit`, if it had them counted."""
        return self._ring.cells[_BLOCKS]

    def set_block_limit(self, limit: int = NEVER, *, counts: bool = False) -> None:
        """Count from zero and stop at the start of block number `limit` (1 is the next one).

        Without a limit blocks are counted only if `counts` asks for it. The hook that counts is there from the first
        time that it is needed: it makes every block dearer.
        """
        wanted = counts or limit != NEVER
        cells = self._ring.cells
        if wanted and self._block_hook is None:
            self._block_hook = BlockHook(cells)
            self._add_hook(uc_const.UC_HOOK_BLOCK, self._block_hook.entry)
            self.forget_all_code()
            cells[_COUNTED] = 1
        cells[_ASKED], cells[_BLOCKS], cells[_LIMIT], cells[_COUNTING] = 0, 0, limit, wanted

    def count_instructions(self) -> int:
        """How many instructions have begun since this was first asked: from then on they are counted."""
        if self._instruction_hook is None:
            self._instruction_hook = InstructionHook()
            self._add_hook(uc_const.UC_HOOK_CODE, self._instruction_hook.entry)
            self.forget_all_code()
        return int(self._instruction_hook.cells[0])

    @property
    def stop_ring(self) -> int:
        """Address of a host function void(int) that makes the run end at the next block: for signal handlers.

        What it asks for between the start of `run` and that of the engine is lost. So who calls it, calls it again.
        """
        return self._ring.entry

    # --- translations of the engine --------------------------------------------------------------------

    def flush_tlb(self) -> None:
        """Forget all address translations: after a change of CR3, or of a table entry that takes something away."""
        uclib.uc_ctl(self._handle, _TLB_FLUSH, 1)

    def forget_code(self, start: int, end: int) -> None:
        """Drop the engine's own translations of linear [start, end), seen through the service state's CR3 and CPL.

        The engine looks the addresses up as if the code in its state accessed them, and does nothing, silently, where
        that fails: so a state that can see them goes in for the call.
        """
        uclib.uc_context_restore(self._handle, self._service_pointer)
        uclib.uc_ctl(self._handle, _REMOVE_CACHE, ctypes.c_uint64(start), ctypes.c_uint64(end))
        uclib.uc_context_restore(self._handle, self._context_pointer)

    def set_service_root(self, root: int) -> None:
        """The page tables through which `forget_code` looks: they map the cache; CPL 1, paging with PAE and NX."""
        state = self._service_state
        state.buffer[:] = self.state.buffer
        state.q[hw.Q_CR] = _SERVICE_CR0
        state.q[hw.Q_CR + 3] = root
        state.q[hw.Q_CR + 4] = _SERVICE_CR4
        state.q[hw.Q_EFER] = _EFER_NXE
        state.q[hw.Q_EFLAGS] = int(Eflags.ONE)
        state.d[hw.D_HFLAGS] = hw.HF_PE | hw.HF_CS32 | hw.HF_SS32 | 1

    def forget_all_code(self) -> None:
        """Drop all of the engine's own translations."""
        uclib.uc_ctl(self._handle, _TB_FLUSH)

    def audit_blocks(self, *ranges: tuple[int, int]) -> None:
        """From now on stop at a block that starts outside two linear ranges (base, size), or at CPL 0.

        Called again, it moves the ranges. `audit_failure` tells after a run.
        """
        if self._audit is None:
            self._audit = AuditHook(self._probe.context)
            self._add_hook(uc_const.UC_HOOK_BLOCK, self._audit.entry)
            self.forget_all_code()
        for number, (base, size) in enumerate(ranges):
            self._audit.cells[2 * number], self._audit.cells[2 * number + 1] = base, size

    @property
    def audit_failure(self) -> int | None:
        """Linear address of the block at which the audit stopped the engine, or None."""
        if self._audit is None or not self._audit.cells[4]:
            return None
        return int(self._audit.cells[5])

    # --- inside ----------------------------------------------------------------------------------------

    def _add_hook(self, kind: int, callback: int | None) -> None:
        handle = ctypes.c_size_t()
        first, last = ctypes.c_uint64(1), ctypes.c_uint64(0)  # begin > end: everywhere
        status = uclib.uc_hook_add(
            self._handle, ctypes.byref(handle), kind, ctypes.c_void_p(callback), None, first, last
        )
        if status:
            raise EngineMismatch(f"hook {kind} refused: {uclib.uc_strerror(status).decode()}")

    def _exit(self, _uc: int, vector: int, _data: int) -> None:
        try:
            self.on_exit(vector)
        except BaseException as error:  # noqa: BLE001  nothing can pass through the engine: `run` raises it again
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._left = True
        uclib.uc_emu_stop(self._handle)

    def _unexpected(self, vector: int) -> None:
        raise VmmError(f"exit {vector} with nobody to handle it")

    def _fold_into_eflags(self) -> None:
        q, d = self.state.q, self.state.d
        if d[hw.D_CC_OP] != hw.CC_OP_EFLAGS:
            raise VmmError("state entered with lazy flags outside a run")
        q[hw.Q_EFLAGS] = q[hw.Q_EFLAGS] & ~_LAZY | q[hw.Q_CC_SRC] & ARITHMETIC | (_DF if d[hw.D_DF] == MASK32 else 0)

    def _unfold_from_eflags(self) -> None:
        q, d = self.state.q, self.state.d
        flags = q[hw.Q_EFLAGS]
        q[hw.Q_CC_SRC] = flags & ARITHMETIC
        d[hw.D_CC_OP] = hw.CC_OP_EFLAGS
        d[hw.D_DF] = MASK32 if flags & _DF else 1
        q[hw.Q_EFLAGS] = flags & ~_LAZY
        d[hw.D_OLD_EXCEPTION] = MASK32
        d[hw.D_EXCEPTION_IS_INT] = 0


_ROM_WRITTEN: Final = uc_const.UC_ERR_WRITE_PROT
"""The engine has dropped a store to read-only memory, finished the block, and stopped: no harm done."""
_NO_CODE: Final = uc_const.UC_ERR_FETCH_PROT
"""The engine will not fetch from where no memory is; nothing of the block has run."""
_GOES_ON: Final = (_ROM_WRITTEN, _NO_CODE)
_SERVICE_CR0: Final = int(Cr0.PE | Cr0.ET | Cr0.WP | Cr0.PG)
_SERVICE_CR4: Final = int(Cr4.PAE)
_EFER_NXE: Final = 1 << 11
_LAZY: Final = ARITHMETIC | _DF
_WRITE: Final = uc_const.UC_CTL_IO_WRITE
_TLB_FLUSH: Final = _ctl_code(uc_const.UC_CTL_TLB_FLUSH, _WRITE, 0)
_TB_FLUSH: Final = _ctl_code(uc_const.UC_CTL_TB_FLUSH, _WRITE, 0)
_REMOVE_CACHE: Final = _ctl_code(uc_const.UC_CTL_TB_REMOVE_CACHE, _WRITE, 2)
