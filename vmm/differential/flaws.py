"""Differences that are not the fault of the engine under test: where the processor below is wrong against the manual,
and an engine that runs guest code on it unchanged shows it.

Each entry has the rule that is broken and where the manual has it. Most have a *spelling*: the difference is explained
if it goes away when the instruction is spelt in a way that the processor gets right. `when` must hold before that is
tried; where there is no spelling it alone decides, and must recognise this one difference: what it takes for granted
no run will ever show again.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from vmm.differential import fpu_predicates, memory_predicates, predicates, segment_predicates, spellings
from vmm.differential.case import Case
from vmm.differential.neutral import Spelling


class Flaw(NamedTuple):
    """A known error of the processor: `rule` is what the manual says in `source`."""

    name: str
    rule: str
    source: str
    spelling: Spelling | None = None
    when: Callable[[Case], bool] | None = None


_EARLIER_FETCH: Final = Flaw(
    "fetch ahead",
    "a page fault of a fetch belongs to the instruction that is fetched, when those before it are done",
    'SDM Vol. 3A, "Exception Classifications"; "Page-Fault Exceptions"',
    when=memory_predicates.blames_an_earlier_fetch,
)

FLAWS: Final = (
    _EARLIER_FETCH,
    Flaw(
        "short fetch",
        "an instruction is fetched as a whole before it can fault",
        'SDM Vol. 3A, "Priority Among Simultaneous Exceptions and Interrupts"',
        when=memory_predicates.fetches_less,
    ),
    Flaw(
        "supervisor's stack",
        "what a program at CPL 3 pushes and pops is subject to the rights of CPL 3",
        'SDM Vol. 3A, "Access Rights"',
        when=memory_predicates.pushes_as_supervisor,
    ),
    Flaw(
        "undefined opcodes",
        "an undefined opcode has no effect but #UD: no operand is read, no MMX state entered",
        'SDM Vol. 3A, "Interrupt 6 - Invalid Opcode Exception (#UD)"',
        when=memory_predicates.minds_operands_of_nothing,
    ),
    Flaw(
        "the hole",
        "what the guest has not mapped faults, in the window of the VMM too",
        'docs/limits.md, "Paging and address space"; SDM Vol. 3A, "Page-Fault Exceptions"',
        when=memory_predicates.is_in_the_hole,
    ),
    Flaw(
        "MMX state",
        "an instruction that faults has changed nothing",
        'SDM Vol. 3A, "Exception Classifications", faults',
        when=fpu_predicates.enters_mmx_state,
    ),
    Flaw(
        "OSFXSR",
        "#UD for an SSE instruction without CR4.OSFXSR comes before #NM",
        'SDM Vol. 2A, "Exceptions Type 2" and those behind it; Vol. 3A, "Interrupt 6 - Invalid Opcode Exception (#UD)"',
        when=fpu_predicates.asks_for_no_sse,
    ),
    Flaw(
        "parts of x87 state",
        "which byte of an operand of 10 to 512 bytes is looked at first is not said",
        'SDM Vol. 3A, "Interrupt 14 - Page-Fault Exception (#PF)"',
        when=memory_predicates.faults_elsewhere,
    ),
    Flaw(
        "loads of x87 state",
        "an operand is read as a whole",
        'SDM Vol. 2A, "FLDENV - Load x87 FPU Environment"; Vol. 2B, "FRSTOR"',
        when=memory_predicates.loads_part_of_state,
    ),
    Flaw(
        "loads of x87 state",
        "an instruction that faults has changed nothing",
        'SDM Vol. 3A, "Exception Classifications", faults',
        when=fpu_predicates.loads_state_in_part,
    ),
    Flaw(
        "x87 and SSE state",
        "errors show in MXCSR and in the x87 status word, whose summary follows from them; FNSTENV masks them",
        'SDM Vol. 1, "MXCSR Control and Status Register", "x87 FPU Status Register"; Vol. 2A, "FSTENV/FNSTENV"',
        spellings.environment,
    ),
    Flaw(
        "x87 errors without CR0.NE",
        "an error is the board's business, not #MF",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 1, "x87 FPU Exception Handling"',
        when=fpu_predicates.errs_without_ne,
    ),
    Flaw(
        "alignment of SSE operands",
        "a 128-bit operand that is not aligned is #GP, and so are reserved bits of MXCSR",
        'SDM Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)"; Vol. 2A, "LDMXCSR", "FXRSTOR"',
        when=fpu_predicates.minds_alignment,
    ),
    Flaw(
        "alignment check",
        "what is not aligned is #AC at CPL 3 under CR0.AM and EFLAGS.AC",
        'SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception (#AC)"',
        when=fpu_predicates.checks_alignment,
    ),
    Flaw(
        "CLFLUSH",
        "for paging it is a load",
        'SDM Vol. 2A, "CLFLUSH - Flush Cache Line"',
        spellings.flush,
    ),
    Flaw(
        "CLFLUSH",
        "for paging it is a load",
        'SDM Vol. 2A, "CLFLUSH - Flush Cache Line"',
        when=fpu_predicates.flushes_what_is_not_there,
    ),
    Flaw(
        "x87 and SSE state",
        "errors show in MXCSR and in the x87 status word, whose summary follows from them; FNSTENV masks them",
        'SDM Vol. 1, "MXCSR Control and Status Register", "x87 FPU Status Register"; Vol. 2A, "FSTENV/FNSTENV"',
        when=fpu_predicates.keeps_fpu_state,
    ),
    Flaw(
        "reads that are to be written",
        "the page fault of an instruction that reads and writes its operand is that of a write",
        'SDM Vol. 3A, "Page-Fault Exceptions"',
        when=memory_predicates.reads_before_it_writes,
    ),
    Flaw(
        "SGDT and SIDT",
        "an instruction that faults has changed nothing",
        'SDM Vol. 3A, "Exception Classifications", faults',
        when=memory_predicates.stores_half_a_table,
    ),
    Flaw(
        "frames across pages",
        "an interrupt that faults has changed nothing",
        'SDM Vol. 3A, "Exception Classifications", faults',
        when=memory_predicates.writes_half_a_frame,
    ),
    Flaw(
        "accessed bits",
        "an entry that a translation uses becomes accessed; whether one does that ends in a fault is not said",
        'SDM Vol. 3A, "Accessed and Dirty Flags"',
        when=memory_predicates.ends_in_fault,
    ),
    Flaw(
        "reserved bits of CR0",
        "a write leaves the reserved bits as they are",
        'SDM Vol. 3A, "Control Registers"',
        when=predicates.keeps_reserved_bits,
    ),
    Flaw(
        "LTR",
        "a null selector is #GP",
        'SDM Vol. 2A, "LTR - Load Task Register"',
        when=predicates.loads_null_task,
    ),
    Flaw(
        "IRETD to V86",
        "an EIP beyond FFFFh is #GP",
        'SDM Vol. 2A, "IRET/IRETD - Interrupt Return", RETURN-TO-VIRTUAL-8086-MODE',
        when=predicates.enters_v86_far,
    ),
    Flaw(
        "stack limits",
        "a frame beyond the limit of SS is #SS",
        'SDM Vol. 3A, "Limit Checking"',
        when=predicates.pushes_past_limit,
    ),
    Flaw(
        "RET imm16",
        "the count is not signed",
        'SDM Vol. 2B, "RET - Return From Procedure"',
        spellings.long_return,
    ),
    Flaw(
        "RET imm16",
        "the count is not signed",
        'SDM Vol. 2B, "RET - Return From Procedure"',
        when=predicates.drops_negative,
    ),
    Flaw(
        "ARPL",
        "memory is written when the RPL changes, else not",
        'SDM Vol. 2A, "ARPL - Adjust RPL Field of Segment Selector"',
        spellings.adjust_rpl,
        memory_predicates.writes_what_stays,
    ),
    Flaw(
        "code limits",
        "code beyond the limit of CS is #GP",
        'SDM Vol. 3A, "Limit Checking"',
        when=predicates.runs_past_limit,
    ),
    Flaw(
        "null selectors",
        "a return to an outer ring makes null selectors 0",
        'SDM Vol. 2A, "IRET/IRETD - Interrupt Return", RETURN-TO-OUTER-PRIVILEGE-LEVEL',
        when=predicates.keeps_null_selectors,
    ),
    Flaw(
        "encodings in new code",
        "8F, C6, C7 have one reg field; F6 /1, F7 /1 are TEST; FISTTP came with SSE3; aliases in x87; bits of CMPPS",
        'SDM Vol. 2D, "Opcode Map", "Opcode Extensions For One- And Two-byte Opcodes"',
        when=predicates.spells_loosely,
    ),
    Flaw(
        "tasks that cannot start",
        "a fault while a new task's segments are loaded is the new task's",
        'SDM Vol. 3A, "Task Switching"',
        when=predicates.loses_the_new_task,
    ),
    Flaw(
        "accessed code",
        "a far transfer to code marks its descriptor as accessed",
        'SDM Vol. 3A, "Code- and Data-Segment Descriptor Types"',
        when=memory_predicates.marks_no_code,
    ),
    Flaw(
        "RF",
        "only an instruction that is done clears RF",
        'docs/limits.md, "Exceptions and debugging"; SDM Vol. 3B, "Instruction-Breakpoint Exception Condition"',
        when=predicates.forgets_resume_flag,
    ),
    Flaw(
        "accessed bit",
        "which byte of a descriptor is written to mark it is not said",
        'SDM Vol. 3A, "Code- and Data-Segment Descriptor Types"',
        when=memory_predicates.marks_elsewhere,
    ),
    Flaw(
        "SMSW",
        "the upper half of a 32-bit register is undefined",
        'SDM Vol. 2B, "SMSW"',
        when=predicates.shows_half_of_cr0,
    ),
    Flaw(
        "IRET and VM",
        "VM in the frame of an IRET counts at CPL 0 alone",
        'SDM Vol. 2A, "IRET/IRETD - Interrupt Return"',
        when=predicates.enters_v86,
    ),
    Flaw(
        "PAUSE",
        "TF traps after every instruction",
        'SDM Vol. 3B, "Single-Step Exception Condition"',
        spellings.pause,
    ),
    Flaw(
        "ENTER",
        "the operand has the width of the frame pointer; the new top of the stack must be writable",
        'SDM Vol. 2A, "ENTER - Make Stack Frame for Procedure Parameters"',
        spellings.frame,
    ),
    Flaw(
        "undefined flags",
        "RCL and RCR by more than 1 leave OF undefined",
        'SDM Vol. 2B, "RCL/RCR/ROL/ROR - Rotate"',
        spellings.rotation,
    ),
    Flaw(
        "undefined flags",
        "BT, BTS, BTR and BTC leave OF, SF, AF and PF undefined",
        'SDM Vol. 2A, "BT - Bit Test"',
        spellings.bit_test,
    ),
    Flaw(
        "branch limits",
        "a branch beyond the limit of CS is #GP",
        'SDM Vol. 2A, "Jcc"; "JMP"; "CALL"',
        when=predicates.branches_too_far,
    ),
    Flaw(
        "far CALL",
        "beyond the limit of the new CS is #GP(0), without its selector",
        'SDM Vol. 2A, "CALL"',
        when=predicates.blames_a_selector,
    ),
    Flaw(
        "16-bit tasks",
        "the selectors in a 16-bit TSS are two bytes apart",
        'SDM Vol. 3A, "16-Bit Task-State Segment (TSS)"',
        when=predicates.reads_small_task_wrong,
    ),
    Flaw(
        "REP over itself",
        "whether a repetition that has begun minds stores to its own code is not said",
        'SDM Vol. 3A, "Self-Modifying Code"',
        when=predicates.changes_its_own_repetition,
    ),
    Flaw(
        "far branch limits",
        "a far transfer beyond the limit of the new CS is #GP",
        'SDM Vol. 2A, "JMP"; "CALL"; Vol. 2B, "RET"',
        when=predicates.goes_far_beyond,
    ),
    Flaw(
        "segment checks",
        "an operand beyond the limit of its segment, of the wrong type or through a null selector is #GP or #SS",
        'SDM Vol. 3A, "Limit Checking", "Type Checking"',
        when=segment_predicates.leaves_its_segment,
    ),
    Flaw(
        "near branch limits",
        "a near branch through a register or memory, or a RET, beyond the limit of CS is #GP itself",
        'SDM Vol. 2A, "JMP"; "CALL"; Vol. 2B, "RET"',
        when=segment_predicates.branches_out_of_code,
    ),
    Flaw(
        "control registers",
        "CR0 with NW and without CD, or with PG and without PE, and reserved bits of CR4, are #GP",
        'SDM Vol. 2B, "MOV - Move to/from Control Registers"',
        when=predicates.loads_impossible_control,
    ),
    Flaw(
        "empty REP",
        "what a port instruction may do is looked at before its count, on processors; the manual does not say",
        'SDM Vol. 2B, "OUTS/OUTSB/OUTSW/OUTSD", "INS/INSB/INSW/INSD"',
        when=predicates.counts_nothing,
    ),
    Flaw(
        "string ports",
        "INS and OUTS of a port that is not allowed touch no memory",
        'SDM Vol. 2A, "INS/INSB/INSW/INSD"; Vol. 2B, "OUTS/OUTSB/OUTSW/OUTSD"',
        spellings.string_port,
        predicates.string_port_is_refused,
    ),
    Flaw(
        "string ports",
        "INS and OUTS of a port that is not allowed touch no memory",
        'SDM Vol. 2A, "INS/INSB/INSW/INSD"; Vol. 2B, "OUTS/OUTSB/OUTSW/OUTSD"',
        when=predicates.string_port_was_refused,
    ),
    Flaw(
        "PUSHFD",
        "VM and RF are clear in the image",
        'SDM Vol. 2B, "PUSHF/PUSHFD"',
        spellings.push_flags,
        predicates.may_push_hidden_flags,
    ),
    Flaw(
        "PUSHFD",
        "VM and RF are clear in the image",
        'SDM Vol. 2B, "PUSHF/PUSHFD"',
        when=predicates.may_push_hidden_flags_elsewhere,
    ),
    Flaw(
        "SMSW",
        "the upper half of a 32-bit register is undefined",
        'SDM Vol. 2B, "SMSW"',
        spellings.status_word,
    ),
    Flaw(
        "CR1 and CR5 to CR7",
        "MOV to and from control registers that do not exist is #UD at every CPL",
        'SDM Vol. 2B, "MOV - Move to/from Control Registers"',
        spellings.control_register,
    ),
    Flaw(
        "bit scans behind F3h",
        "F3h in front of BSF and BSR is ignored on a processor without TZCNT and LZCNT",
        'SDM Vol. 2B, "TZCNT"; "LZCNT"',
        spellings.bit_scan,
    ),
    Flaw(
        "x87 errors",
        "an unmasked error is #MF at the next x87 or MMX instruction that waits, not at FWAIT alone",
        'SDM Vol. 1, "x87 FPU Exception Synchronization"',
        spellings.waiting,
    ),
    Flaw(
        "endless programs",
        "a program without an end is stopped after so many blocks, wherever it is then",
        "docs/differential.md",
        when=predicates.ends_nowhere,
    ),
    Flaw(
        "order of operands",
        "which of two operands is looked at first is not said, and is what CR2 has",
        'SDM Vol. 3A, "Interrupt 14 - Page-Fault Exception (#PF)"',
        when=predicates.looks_at_the_other_operand,
    ),
    Flaw("LOOPcc", "LOOPE and LOOPNE affect no flags", 'SDM Vol. 2A, "LOOP/LOOPcc"', spellings.loop_on_zf),
    Flaw(
        "LOOPcc",
        "LOOPE and LOOPNE affect no flags",
        'SDM Vol. 2A, "LOOP/LOOPcc"',
        when=predicates.forgets_flags_of_a_new_loop,
    ),
    Flaw(
        "lazy flags",
        "CMPXCHG8B affects ZF alone; task switches save all flags; SETcc, RCL, SHLD may write to code",
        'SDM Vol. 2A, "CMPXCHG8B"; Vol. 3A, "Task Switching", "Self-Modifying Code"',
        spellings.flags_first,
    ),
    Flaw(
        "lazy flags",
        "an instruction that accesses what is not RAM sees the flags of those before it",
        'docs/limits.md, "Ring deprivileging"; SDM Vol. 3A, "Program or Task Restart"',
        when=memory_predicates.returns_out_of_ram,
    ),
    Flaw(
        "TEST", "F6 /1 and F7 /1 are TEST", "processors execute them as /0; the opcode map has no entry", spellings.test
    ),
    Flaw("CMPPS", "bits 7:3 of the predicate are ignored", 'SDM Vol. 2A, "CMPPS"', spellings.predicate),
    Flaw(
        "hints", "0F18h of a register is a reserved NOP", 'SDM Vol. 2D, "Opcode Extensions", group 16', spellings.hint
    ),
    Flaw("LOCK", "LOCK is #UD where it may not stand", 'SDM Vol. 2A, "LOCK"', spellings.lock),
    Flaw(
        "LOCK",
        "LOCK is #UD where it may not stand",
        'SDM Vol. 2A, "LOCK"',
        when=predicates.overlooks_lock,
    ),
    Flaw(
        "x87 errors",
        "an unmasked error is #MF at the next x87 or MMX instruction that waits, not at FWAIT alone",
        'SDM Vol. 1, "x87 FPU Exception Synchronization"',
        when=fpu_predicates.overlooks_error,
    ),
    Flaw(
        _EARLIER_FETCH.name,
        _EARLIER_FETCH.rule,
        _EARLIER_FETCH.source,
        spellings.block_each,
        memory_predicates.fetches_ahead,
    ),
)
