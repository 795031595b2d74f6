"""Instructions that leave because the mask in the state says so: where, with what, and only then."""

import subprocess
import sys

import pytest
from cpu_rig import CODE, DATA, Rig

from vmm.arch.registers import ARITHMETIC, Eflags, Reg
from vmm.hw import state as hw
from vmm.hw import traps
from vmm.hw.traps import EXIT, Q_TRAPS, Trap, set_traps

BEFORE = f"mov dword ptr [{DATA:#x}], 5; mov ecx, 7; mov esi, {DATA:#x}; mov edx, 0x71; stc; sbb eax, eax; "
CF, SF, AF, PF = (int(flag) for flag in (Eflags.CF, Eflags.SF, Eflags.AF, Eflags.PF))

CASES = {
    "in al, dx": Trap.IO,
    "in ax, dx": Trap.IO,
    "in eax, 0x60": Trap.IO,
    "out dx, al": Trap.IO,
    "out dx, ax": Trap.IO,
    "out 0x80, eax": Trap.IO,
    "outsb": Trap.IO,
    "rep outsd": Trap.IO,
    "hlt": Trap.HLT,
    "cpuid": Trap.CPUID,
    "rdtsc": Trap.TSC,
    "rdpmc": Trap.PMC,
    "rdmsr": Trap.MSR,
    "wrmsr": Trap.MSR,
    "sysexit": Trap.FAST_CALL,
    "sysenter": Trap.FAST_CALL,
    "mov dr3, eax": Trap.DEBUG,
    "mov eax, dr6": Trap.DEBUG,
    "mov cr3, eax": Trap.CONTROL_WRITE,
    "clts": Trap.CONTROL_WRITE,
    "lmsw ax": Trap.CONTROL_WRITE,
    "mov eax, cr0": Trap.CONTROL_READ,
    "invlpg [esi]": Trap.INVLPG,
    "sti": Trap.INTERRUPT_FLAG,
    "popfd": Trap.INTERRUPT_FLAG,
    "cli": Trap.CLI,
    "pushfd": Trap.PUSHF,
    "iretd": Trap.IRET,
    "lldt ax": Trap.TASK_REGISTER,
    "ltr ax": Trap.TASK_REGISTER,
    "retf": Trap.FAR_RETURN,
    "int 0x40": Trap.INTERRUPT,
    "int3": Trap.INTERRUPT,
    "into": Trap.INTERRUPT,
}
BYTES = {"outsb": "6e", "rep outsd": "f36f", "sysexit": "0f35", "sysenter": "0f34", "retf": "cb"}
FAR_JUMP = b"\xea\0\0\0\0\x08\0"


def enter(rig: Rig, code: bytes, cpl: int = 0) -> int:
    """At CPL 0 behind BEFORE; returns where `code` begins."""
    start = rig.load(BEFORE)
    rig.load(code, CODE + len(start))
    rig.enter(cpl=cpl)
    rig.cpu.state.q[Reg.ESP] -= 16  # IRET and RETF look at the stack first
    return CODE + len(start)


def encoded(rig: Rig, text: str) -> bytes:
    return bytes.fromhex(BYTES[text]) if text in BYTES else rig.load(text)


def test_this_engine_has_them() -> None:
    assert traps.AVAILABLE


@pytest.mark.parametrize("text", [*CASES, "far jump"])
def test_a_trapped_instruction_has_not_begun(rig: Rig, text: str) -> None:
    code, trap = (FAR_JUMP, Trap.FAR) if text == "far jump" else (encoded(rig, text), CASES[text])
    at = enter(rig, code)
    set_traps(rig.cpu.state, trap)
    seen = rig.run()
    assert (seen.vector, seen.eip) == (EXIT + trap.bit_length() - 1, at)
    assert [rig.reg(reg) for reg in (Reg.EAX, Reg.ECX, Reg.ESI, Reg.EDX)] == [0xFFFF_FFFF, 7, DATA, 0x71]
    assert rig.cpu.fold_flags() & ARITHMETIC == CF | SF | AF | PF
    assert rig.word(DATA) == 5


@pytest.mark.parametrize("text", ["cpuid", "cli", "mov eax, cr0", "pushfd", "rdtsc", "out dx, al"])
@pytest.mark.parametrize("mask", [0, ~0])
def test_other_instructions_run_on(rig: Rig, text: str, mask: int) -> None:
    at = enter(rig, encoded(rig, text) + b"\xcd\x41")
    set_traps(rig.cpu.state, mask & (1 << 20) - 1 & ~int(CASES[text] | Trap.INTERRUPT))
    seen = rig.run()
    assert (seen.vector, seen.eip > at) == (0x41, True)


@pytest.mark.parametrize(
    ("image", "leaves"), [("0x202", True), ("0x3d7", True), ("2", False), ("0xdd7", False), ("0xfffffdff", False)]
)
def test_popf_leaves_through_a_window_only_if_its_image_has_if(rig: Rig, image: str, leaves: bool) -> None:
    at = enter(rig, rig.load(f"push {image}; popfd; int 0x41"))
    set_traps(rig.cpu.state, Trap.WINDOW)
    seen = rig.run()
    popfd = at + len(rig.load(f"push {image}"))
    assert (seen.vector, seen.eip) == ((EXIT + 11, popfd) if leaves else (0x41, popfd + 3))


def test_sti_leaves_through_a_window(rig: Rig) -> None:
    at = enter(rig, rig.load("sti"))
    set_traps(rig.cpu.state, Trap.WINDOW)
    seen = rig.run()
    assert (seen.vector, seen.eip) == (EXIT + 11, at)


@pytest.mark.parametrize(("nested", "cpl"), [(True, 0), (True, 3), (False, 0), (False, 1), (False, 3)])
def test_an_odd_iret_has_nt_or_is_outside_cpl_0(rig: Rig, nested: bool, cpl: int) -> None:
    at = enter(rig, rig.load("iretd"), cpl)
    rig.cpu.state.q[hw.Q_EFLAGS] |= int(Eflags.NT) if nested else 0
    set_traps(rig.cpu.state, Trap.ODD_IRET)
    seen = rig.run()
    assert (seen.vector == EXIT + 14, seen.eip) == (nested or cpl > 0, at)  # else the frame of zeros is #GP


@pytest.mark.parametrize("v86", [True, False])
def test_pushf_leaves_in_v86(rig: Rig, v86: bool) -> None:
    rig.load("pushf; int 0x41", code32=not v86)
    rig.enter(v86=v86, code32=not v86, iopl=3, cpl=3)
    set_traps(rig.cpu.state, Trap.PUSHF_V86)
    seen = rig.run()
    assert (seen.vector, seen.eip == CODE) == ((EXIT + 13, True) if v86 else (0x41, False))


def test_the_mask_works_at_the_next_instruction(rig: Rig) -> None:
    """Set and cleared inside exits of one run, in code that has been translated already."""
    at = enter(rig, rig.load("top: cpuid; mov eax, 1; int 0x40; jmp top"))
    seen = []

    def then(exit_) -> bool:
        seen.append((exit_.vector, exit_.eip - at))
        state = rig.cpu.state
        if exit_.vector == EXIT + 2:
            state.q[hw.Q_EIP] += 2
        else:
            state.q[Q_TRAPS] ^= int(Trap.CPUID)
        return len(seen) < 5

    rig.then = then
    rig.run()
    assert seen == [(0x40, 9), (EXIT + 2, 0), (0x40, 9), (0x40, 9), (EXIT + 2, 0)]


def test_the_library_is_changed_before_the_first_processor_is_made() -> None:
    """A processor made before would crash where an engine that is loaded later has the changes made."""
    check = "import vmm.hw.cpu, sys; sys.exit(not {'vmm.hw.flags', 'vmm.hw.traps'} <= sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
