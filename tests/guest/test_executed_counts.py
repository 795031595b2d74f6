"""Executed counts: each execution of a sensitive instruction is seen once, whichever way it takes."""

import pytest
from guest_bench import P32, REAL, Bench, Mode

from vmm.census.executed import COUNTING, ExecutionCounter
from vmm.engines.engine import Leave

TIMES = 10


@pytest.fixture
def counted() -> tuple[Bench, ExecutionCounter]:
    """A machine that counts."""
    bench, counter = Bench(COUNTING), ExecutionCounter()
    bench.engine.observer = counter
    return bench, counter


def executed(counter: ExecutionCounter) -> dict[str, int]:
    return {f"{form.instruction} {form.operands}".strip(): count for form, count in counter.executed.items()}


def loop(body: str) -> str:
    return f"mov cx, {TIMES}\nagain:\n{body}\nloop again"


BODIES = [
    pytest.param(REAL, "pushf\npopf", {"PUSHF 16-bit": TIMES, "POPF 16-bit": TIMES}, id="real_flags"),
    pytest.param(REAL, "cli\nsti\nnop", {"CLI": TIMES, "STI": TIMES}, id="real_cli_sti"),
    pytest.param(REAL, "push cs\npop es", {"PUSH CS": TIMES, "POP ES": TIMES}, id="real_segments_on_the_stack"),
    pytest.param(REAL, "mov ax, ds\nmov ds, ax", {"MOV r16, DS": TIMES, "MOV DS, r16": TIMES}, id="real_mov"),
    pytest.param(REAL, "mov ax, ss\nmov ss, ax\nnop", {"MOV r16, SS": TIMES, "MOV SS, r16": TIMES}, id="real_mov_ss"),
    pytest.param(REAL, "smsw ax\ncpuid\nmov cx, 1", {"SMSW r16": 1, "CPUID": 1}, id="real_once"),
    pytest.param(P32[0], "pushfd\npopfd", {"PUSHF 32-bit": TIMES, "POPF 32-bit": TIMES}, id="ring_0_flags"),
    pytest.param(P32[0], "mov eax, ds\nmov ds, ax", {"MOV r32, DS": TIMES, "MOV DS, r16": TIMES}, id="ring_0_mov"),
    pytest.param(P32[0], ".byte 0x06, 0x07", {"PUSH ES": TIMES, "POP ES": TIMES}, id="ring_0_push_pop"),
    pytest.param(P32[0], "str ax\nsmsw eax", {"STR r16": TIMES, "SMSW r32": TIMES}, id="ring_0_inline_stores"),
    pytest.param(P32[0], "mov eax, cr0\nclts", {"MOV r32, CR0": TIMES, "CLTS": TIMES}, id="ring_0_control"),
    pytest.param(P32[3], "sldt ax\nlar eax, edx", {"SLDT r16": TIMES, "LAR r32, r32": TIMES}, id="ring_3"),
]


@pytest.mark.parametrize(("mode", "body", "expected"), BODIES)
def test_each_execution_is_counted_once(counted, mode: Mode, body: str, expected: dict[str, int]) -> None:
    bench, counter = counted
    bench.start(mode, loop(body) if mode is REAL else loop(body).replace("cx,", "ecx,"))
    bench.run()
    assert bench.leave is Leave.REQUESTED
    assert executed(counter) == expected | {"OUT imm8, AL": 1}


def test_an_iret_that_stays_in_its_ring_is_counted(counted) -> None:
    """It is code in the cache as a rule, and the one instruction of the kind that is both."""
    bench, counter = counted
    target = "call here\nhere: pop eax\nadd eax, 8\npushfd\n.byte 0x0e\npush eax\n.byte 0xcf"
    bench.start(P32[0], f"mov ecx, {TIMES}\nagain:\n{target}\nloop again")
    bench.run()
    assert executed(counter) == {"PUSHF 32-bit": TIMES, "PUSH CS": TIMES, "IRET 32-bit": TIMES, "OUT imm8, AL": 1}


def test_what_faults_was_not_executed(counted) -> None:
    bench, counter = counted
    bench.start(P32[3], "nop\ncli")
    assert bench.run()["fault"] == (13, 0)
    assert executed(counter) == {"HLT": 1}


def test_a_repeated_string_instruction_is_one(counted) -> None:
    bench, counter = counted
    bench.start(REAL, "mov cx, 5\nmov dx, 0x1f0\nxor di, di\ncld\nrep insb", eflags=0)
    bench.run()
    assert executed(counter) == {"INS REP m8": 1, "OUT imm8, AL": 1}
