"""What the engine's AMD-V does, and what it leaves out: the facts that the engine `svm` stands on."""

import pytest
from cpu_rig import CODE, CR0, DATA, STACK, STACK_TOP, P, U
from svm_rig import HANDLER, IDT, SvmRig

from vmm.arch import vmcb as block
from vmm.arch.descriptors import Gate, SystemType
from vmm.arch.layout import PAGE_SIZE
from vmm.arch.registers import ARITHMETIC, Cr0, Eflags, Reg, Seg
from vmm.arch.vmcb import ExitCode, Intercept, external_interrupt
from vmm.hw import state as hw
from vmm.hw.guest_mode import EXIT
from vmm.hw.traps import EXIT as TRAPPED
from vmm.hw.traps import Trap, set_traps

PE, IF, TF, DF = int(Cr0.PE), int(Eflags.IF), int(Eflags.TF), int(Eflags.DF)
UD, PF, OF = 6, 14, 4
MISSING = 0x50_0010


@pytest.fixture
def svm() -> SvmRig:
    return SvmRig()


# --- in and out ----------------------------------------------------------------------------------------------


def test_vmrun_brings_the_guest_in_with_all_its_state(svm: SvmRig) -> None:
    svm.leave_on(Intercept.CPUID)
    svm.prepare("nop; cpuid")
    q = svm.cpu.state.q
    for number, reg in enumerate(reg for reg in Reg if reg is not Reg.ESP):
        q[reg] = 0x1111_0000 + number
    svm.segment(Seg.FS, 0x1234, 0xABC0, 0x00CF_9300)
    svm.set_flags(0x8D5 | DF)
    q[hw.Q_CR + 2] = 0x5678
    before = {reg: svm.reg(reg) for reg in Reg}
    seen = svm.run_guest()
    assert (seen.vector, seen.eip) == (EXIT + ExitCode.CPUID, CODE + 1)
    assert {reg: svm.reg(reg) for reg in Reg} == before
    assert (svm.flags(), svm.selector(Seg.FS), svm.base(Seg.FS), seen.cr2) == (0x8D5 | DF, 0x1234, 0xABC0, 0x5678)
    assert svm.mode.is_inside
    assert q[hw.Q_CR] == CR0


@pytest.mark.parametrize("cpl", [0, 1, 2, 3])
def test_privilege_is_that_of_ss(svm: SvmRig, cpl: int) -> None:
    svm.leave_on(Intercept.CPUID)
    svm.prepare("cpuid", cpl=cpl)
    svm.run_guest()
    assert svm.cpu.state.d[hw.D_HFLAGS] & hw.HF_CPL == cpl


def test_real_mode_runs_on_page_tables(svm: SvmRig) -> None:
    """APM Vol. 2, "Paged Real Mode": CR0.PG without CR0.PE."""
    svm.leave_on(Intercept.CPUID)
    svm.prepare("mov ax, 0x1234; mov ds, ax; smsw bx; cpuid", code32=False, cr0=CR0 & ~PE)
    assert svm.run_guest().vector == EXIT + ExitCode.CPUID
    assert (svm.base(Seg.DS), svm.reg(Reg.EBX) & PE) == (0x1_2340, 0)


def test_what_the_hook_leaves_goes_on_in_guest_mode(svm: SvmRig) -> None:
    svm.leave_on(Intercept.CPUID)
    svm.prepare("cpuid; cpuid; cpuid")
    seen = []

    def then(exit_) -> bool:
        seen.append(exit_.eip - CODE)
        svm.cpu.state.q[hw.Q_EIP] += 2
        return len(seen) < 3

    svm.then = then
    svm.run_guest()
    assert seen == [0, 2, 4]


def test_a_run_that_ends_before_vmrun_gives_the_guest_back(svm: SvmRig) -> None:
    svm.prepare("nop")
    before = bytes(svm.cpu.state.buffer)
    svm.mode.prepare()
    svm.cpu.set_block_limit(1)
    assert svm.cpu.run()
    assert svm.mode.withdraw()
    assert bytes(svm.cpu.state.buffer) == before


def test_a_run_that_ends_in_the_guest_is_no_withdrawal(svm: SvmRig) -> None:
    svm.prepare("top: jmp top")
    svm.mode.prepare()
    svm.cpu.set_block_limit(100)
    assert svm.cpu.run()
    assert not svm.mode.withdraw()
    assert (svm.mode.is_inside, svm.cpu.state.q[hw.Q_EIP]) == (True, CODE)


# --- intercepts ----------------------------------------------------------------------------------------------

INTERCEPTS = {
    "cpuid": (Intercept.CPUID, ExitCode.CPUID),
    "hlt": (Intercept.HLT, ExitCode.HLT),
    "rdtsc": (Intercept.RDTSC, ExitCode.RDTSC),
    "rdpmc": (Intercept.RDPMC, ExitCode.RDPMC),
    "rdmsr": (Intercept.MSR, ExitCode.MSR),
    "wrmsr": (Intercept.MSR, ExitCode.MSR),
    "invlpg [esi]": (Intercept.INVLPG, ExitCode.INVLPG),
    "wbinvd": (Intercept.WBINVD, ExitCode.WBINVD),
    "pushfd": (Intercept.PUSHF, ExitCode.PUSHF),
    "popfd": (Intercept.POPF, ExitCode.POPF),
    "iretd": (Intercept.IRET, ExitCode.IRET),
    "int 0x41": (Intercept.INT_N, ExitCode.INT_N),
    "int3": (Intercept.INT_N, ExitCode.INT_N),
}
SVM_INSTRUCTIONS = {
    b"\x0f\x01\xd8": (Intercept.VMRUN, ExitCode.VMRUN),
    b"\x0f\x01\xd9": (Intercept.VMMCALL, ExitCode.VMMCALL),
    b"\x0f\x01\xda": (Intercept.VMLOAD, ExitCode.VMLOAD),
    b"\x0f\x01\xdb": (Intercept.VMSAVE, ExitCode.VMSAVE),
    b"\x0f\x01\xdc": (Intercept.STGI, ExitCode.STGI),
    b"\x0f\x01\xdd": (Intercept.CLGI, ExitCode.CLGI),
    b"\x0f\x01\xde": (Intercept.SKINIT, ExitCode.SKINIT),
    b"\x0f\x01\xdf": (Intercept.INVLPGA, ExitCode.INVLPGA),
}


@pytest.mark.parametrize(("code", "where"), (INTERCEPTS | SVM_INSTRUCTIONS).items())
def test_an_intercepted_instruction_has_not_begun(
    svm: SvmRig, code: str | bytes, where: tuple[Intercept, ExitCode]
) -> None:
    intercept, exit_code = where
    svm.leave_on(intercept)
    svm.prepare(code)
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, svm.reg(Reg.ESP)) == (EXIT + exit_code, CODE, STACK_TOP)


@pytest.mark.parametrize("text", ["cpuid", "pushfd", "popfd", "mov eax, cr0", "mov eax, cr4", "smsw ax"])
def test_what_is_not_intercepted_runs(svm: SvmRig, text: str) -> None:
    svm.leave_on(Intercept.HLT)
    svm.prepare(f"push 2; {text}; hlt")
    assert svm.run_guest().vector == EXIT + ExitCode.HLT


CONTROL = {
    "mov eax, cr0": (1 << 0, 0, ExitCode.CR0_READ),
    "smsw ax": (1 << 0, 0, ExitCode.CR0_READ),
    "mov eax, cr3": (1 << 3, 0, ExitCode.CR0_READ + 3),
    "mov eax, cr4": (1 << 4, 0, ExitCode.CR0_READ + 4),
    "mov cr0, eax": (0, 1 << 0, ExitCode.CR0_WRITE),
    "lmsw ax": (0, 1 << 0, ExitCode.CR0_WRITE),
    "clts": (0, 1 << 0, ExitCode.CR0_WRITE),
    "mov cr3, eax": (0, 1 << 3, ExitCode.CR0_WRITE + 3),
    "mov cr4, eax": (0, 1 << 4, ExitCode.CR0_WRITE + 4),
}


@pytest.mark.parametrize(("text", "where"), CONTROL.items())
def test_control_registers_have_intercepts_of_their_own(
    svm: SvmRig, text: str, where: tuple[int, int, ExitCode]
) -> None:
    reads, writes, exit_code = where
    svm.leave_on(cr_reads=reads, cr_writes=writes)
    svm.prepare(text)
    seen = svm.run_guest()
    assert (seen.vector, seen.eip) == (EXIT + exit_code, CODE)


@pytest.mark.parametrize(
    ("text", "exit_code"), [("mov eax, dr7", ExitCode.DR0_READ), ("mov dr7, eax", ExitCode.DR0_WRITE)]
)
def test_debug_registers_have_intercepts_of_their_own(svm: SvmRig, text: str, exit_code: ExitCode) -> None:
    svm.vmcb.put(block.DR_READS, 0xFF)
    svm.vmcb.put(block.DR_WRITES, 0xFF)
    svm.prepare(text)
    seen = svm.run_guest()
    assert (seen.vector, seen.eip) == (EXIT + exit_code + 7, CODE)


def test_a_page_fault_that_is_intercepted_leaves_cr2_alone(svm: SvmRig) -> None:
    svm.leave_on(exceptions=1 << PF)
    svm.prepare(f"mov [{MISSING:#x}], eax")
    svm.cpu.state.q[hw.Q_CR + 2] = 0x1234
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, seen.error_code, seen.cr2) == (EXIT + ExitCode.EXCEPTION_0 + PF, CODE, 2, 0x1234)
    assert svm.vmcb.get(block.EXIT_INFO_2) == MISSING


def test_an_exception_that_is_not_comes_as_its_vector(svm: SvmRig) -> None:
    svm.prepare(b"\x0f\x0b")
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, svm.mode.is_inside) == (UD, CODE, True)


# --- what is missing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["in al, 0x60", "out 0x60, al"])
def test_ports_have_no_intercept(svm: SvmRig, text: str) -> None:
    svm.leave_on(Intercept.IOIO | Intercept.HLT)
    svm.prepare(f"{text}; hlt")
    assert svm.run_guest().vector == EXIT + ExitCode.HLT


def test_rdtscp_has_no_intercept(svm: SvmRig) -> None:
    svm.leave_on(Intercept.RDTSCP | Intercept.HLT)
    svm.prepare(b"\x0f\x01\xf9\xf4")
    assert svm.run_guest().vector == EXIT + ExitCode.HLT


def test_task_switches_have_no_intercept(svm: SvmRig) -> None:
    """A far JMP to a TSS is carried out: here it finds that the GDT has none and faults, where it should have left."""
    svm.leave_on(Intercept.TASK_SWITCH)
    svm.prepare(b"\xea\0\0\0\0\x28\0")
    assert svm.run_guest().vector == 13


@pytest.mark.parametrize(
    ("text", "trap"), [("in al, 0x60", Trap.IO), ("sti", Trap.INTERRUPT_FLAG), ("iretd", Trap.IRET)]
)
def test_traps_by_the_mask_work_in_guest_mode(svm: SvmRig, text: str, trap: Trap) -> None:
    svm.prepare(text)
    set_traps(svm.cpu.state, trap)
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, svm.mode.is_inside) == (TRAPPED + trap.bit_length() - 1, CODE, True)


@pytest.mark.parametrize("intercepts", [0, Intercept.INT_N])
def test_into_is_past_itself_or_has_an_exit_before(svm: SvmRig, intercepts: int) -> None:
    svm.leave_on(intercepts)
    svm.prepare(b"\xce")
    svm.set_flags(int(Eflags.OF))
    seen = svm.run_guest()
    assert (seen.vector, seen.eip) == ((EXIT + ExitCode.INT_N, CODE) if intercepts else (OF, CODE + 1))


# --- injection -----------------------------------------------------------------------------------------------


def inject(svm: SvmRig, present: bool = True, stack: int = STACK_TOP) -> None:
    svm.load(b"\xf4", HANDLER)
    svm.put(IDT + 8 * 0x21, Gate(HANDLER, 8, SystemType.INTERRUPT_GATE32, 0, present).to_bytes())
    svm.leave_on(Intercept.HLT, exceptions=1 << PF)
    svm.prepare("hlt")
    svm.cpu.state.q[hw.Q_EFLAGS] |= IF
    svm.cpu.state.q[Reg.ESP] = stack
    svm.vmcb.put(block.EVENT_INJECTION, external_interrupt(0x21))


def test_an_injected_interrupt_goes_through_the_idt(svm: SvmRig) -> None:
    inject(svm)
    assert svm.run_guest().eip == HANDLER
    assert [svm.word(STACK_TOP - at) for at in (12, 8, 4)] == [CODE, 8, IF | 2]
    assert svm.vmcb.get(block.EVENT_INJECTION) == 0x21, "no longer valid"


def test_an_injection_that_faults_stays_valid(svm: SvmRig) -> None:
    inject(svm, present=False)
    seen = svm.run_guest()
    assert (seen.vector, seen.error_code, seen.eip) == (11, 0x21 << 3 | 2, CODE)  # without the EXT bit
    assert svm.vmcb.get(block.EVENT_INJECTION) == external_interrupt(0x21)


def test_an_injection_that_misses_its_stack_leaves_all_as_it_was(svm: SvmRig) -> None:
    inject(svm, stack=MISSING)
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, svm.reg(Reg.ESP)) == (EXIT + ExitCode.EXCEPTION_0 + PF, CODE, MISSING)
    assert svm.vmcb.get(block.EVENT_INJECTION) == external_interrupt(0x21)


def test_an_injected_exception_comes_back_at_once(svm: SvmRig) -> None:
    """So exceptions are delivered by the VMM."""
    inject(svm)
    svm.vmcb.put(block.EVENT_INJECTION, block.EVENT_VALID | block.EventType.EXCEPTION << 8 | UD)
    assert (svm.run_guest().vector, svm.exits[0].eip) == (UD, CODE)


# --- nested paging -------------------------------------------------------------------------------------------


def nest(svm: SvmRig, code: str | bytes, cr0: int = CR0 & ~int(Cr0.PG)) -> None:
    """The rig's tables translate guest-physical addresses; the guest does not page."""
    svm.leave_on(Intercept.HLT)
    svm.prepare(code, cr0=cr0)
    svm.cpu.state.q[hw.Q_CR + 4] &= ~(1 << 5)
    svm.vmcb.put(block.NESTED_CONTROL, 1)
    svm.vmcb.put(block.NESTED_CR3, svm.root)


def test_a_guest_without_paging_runs_on_nested_tables(svm: SvmRig) -> None:
    nest(svm, "mov eax, 5; hlt")
    svm.map(CODE, DATA, P | U)
    svm.load("mov eax, 7; hlt", DATA)
    assert (svm.run_guest().vector, svm.reg(Reg.EAX)) == (EXIT + ExitCode.HLT, 7)


def test_a_nested_fault_tells_the_guest_physical_address(svm: SvmRig) -> None:
    nest(svm, f"mov [{MISSING:#x}], eax")
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, seen.error_code & 7) == (EXIT + ExitCode.NESTED_PAGE_FAULT, CODE, 6)
    assert svm.vmcb.get(block.EXIT_INFO_2) == MISSING


def test_the_guests_own_tables_are_walked_below_nested_ones(svm: SvmRig) -> None:
    """32-bit paging of the guest's on nested PAE tables; its page faults are plain ones."""
    directory, table = DATA, DATA + PAGE_SIZE
    nest(svm, "mov eax, [0x400010]; mov eax, [0x401000]", cr0=CR0)
    svm.identity(directory, table)
    svm.put(directory, (table | 7).to_bytes(4, "little") * 2)
    svm.put(table, b"".join((page << 12 | 7).to_bytes(4, "little") for page in range(512)))
    svm.put(table + 4 * 1, bytes(4))
    svm.identity(0)
    svm.put(0x10, b"\x78\x56\x34\x12")
    svm.cpu.state.q[hw.Q_CR + 3] = directory
    seen = svm.run_guest()
    assert (seen.vector, seen.cr2, seen.error_code, svm.reg(Reg.EAX)) == (PF, 0x40_1000, 0, 0x1234_5678)


# --- single steps --------------------------------------------------------------------------------------------


def test_tf_stops_behind_one_instruction(svm: SvmRig) -> None:
    svm.prepare("inc eax; inc eax")
    svm.cpu.state.q[hw.Q_EFLAGS] |= TF
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, svm.reg(Reg.EAX)) == (1, CODE + 1, 1)


def test_tf_stops_behind_one_iteration(svm: SvmRig) -> None:
    svm.prepare(b"\xf3\xab")
    q = svm.cpu.state.q
    q[hw.Q_EFLAGS] |= TF
    q[Reg.ECX], q[Reg.EDI] = 3, DATA
    seen = svm.run_guest()
    assert (seen.vector, seen.eip, svm.reg(Reg.ECX), svm.reg(Reg.EDI)) == (1, CODE, 2, DATA + 4)


def test_the_arithmetic_flags_survive_a_step(svm: SvmRig) -> None:
    svm.prepare("stc; nop")
    svm.cpu.state.q[hw.Q_EFLAGS] |= TF
    svm.run_guest()
    assert svm.flags() & ARITHMETIC == int(Eflags.CF)


def test_stores_of_the_guest_to_code_are_seen(svm: SvmRig) -> None:
    """In pages that are mapped executable and writable."""
    svm.identity(CODE, STACK)
    svm.leave_on(Intercept.HLT)
    svm.prepare(f"mov ecx, 2; again: mov al, 1; mov byte ptr [{CODE + 6:#x}], 9; dec ecx; jnz again; hlt")
    svm.run_guest()
    assert svm.reg(Reg.EAX) == 9
