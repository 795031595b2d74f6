"""Instruction by instruction: the critical ones, the privileged ones, and the seven events of Adams and Agesen.

All run under paging, as in a kernel. What an instruction cannot do without (a push before a POPF) is in the baseline,
too. HLT is missing: what it takes is how long one waits.

Source: K. Adams, O. Agesen, "A Comparison of Software and Hardware Techniques for x86 Virtualization" (2006),
"Virtualization Nanobenchmarks"; Intel SDM Vol. 2, "Instruction Set Reference", Vol. 3A, "Privileged Instructions".
"""

from typing import Final

from vmm.bench.case import Case

_DATA: Final = "DATA + 0x100"
_AT_DATA: Final = f"mov edi, {_DATA}"
_SELECTOR: Final = "mov ebx, KERNEL_DATA"


def _plain(name: str, body: str, before: str = "") -> Case:
    return Case(name, body, body, before=before)


def _control(number: int) -> tuple[Case, Case]:
    """MOV from and to a control register; what is written is what is there."""
    return (
        _plain(f"mov-from-cr{number}", f"mov ecx, cr{number}"),
        _plain(f"mov-to-cr{number}", f"mov cr{number}, ecx", f"mov ecx, cr{number}"),
    )


def _segment(name: str) -> tuple[Case, Case]:
    """MOV to and POP to a segment register."""
    return (
        _plain(f"mov-to-{name}", f"mov {name}, bx", _SELECTOR),
        Case(f"pop-{name}", f"push ebx; pop {name}", f"push ebx\npop {name}", "push ebx\npop ecx", _SELECTOR),
    )


CRITICAL: Final = (
    _plain("sgdt", "sgdt [edi]", _AT_DATA),
    _plain("sidt", "sidt [edi]", _AT_DATA),
    _plain("sldt", "sldt cx"),
    _plain("str", "str cx"),
    _plain("smsw", "smsw cx"),
    Case("pushf", "pushfd; pop ecx", "pushfd\npop ecx", "push ecx\npop ecx"),
    Case("popf", "push ebx; popfd", "push ebx\npopfd", "push ebx\npop ecx", "mov ebx, 2"),
    _plain("lar", "lar ecx, ebx", _SELECTOR),
    _plain("lsl", "lsl ecx, ebx", _SELECTOR),
    _plain("verr", "verr bx", _SELECTOR),
    _plain("verw", "verw bx", _SELECTOR),
    _plain("mov-from-cs", "mov ecx, cs"),
    _plain("mov-from-ds", "mov ecx, ds"),
    Case("push-cs", "push cs; pop ecx", "push cs\npop ecx", "push ecx\npop ecx"),
    Case("push-ss", "push ss; pop ecx", "push ss\npop ecx", "push ecx\npop ecx"),
    *_segment("ds"),
    *_segment("es"),
    *_segment("fs"),
    *_segment("gs"),
    *_segment("ss"),
    Case(
        "call-far", "lcall and retf", "lcall KERNEL_CODE:far_leaf", "push ecx\npush ecx\nadd esp, 8",
        routines="far_leaf:\nretf",
    ),
    Case("jmp-far", "ljmp", "ljmp KERNEL_CODE:1f\n1:"),
    Case("ret-far", "retf", "push KERNEL_CODE\npush 1f\nretf\n1:", "push KERNEL_CODE\npush 0\nadd esp, 8"),
    _plain("int", "int INT_SYSTEM_CALL"),
    Case(
        "iret", "iretd in ring 0", "push 2\npush KERNEL_CODE\npush 1f\niretd\n1:",
        "push 2\npush KERNEL_CODE\npush 0\nadd esp, 12",
    ),
)  # fmt: skip

PRIVILEGED: Final = (
    _plain("cli", "cli"),
    _plain("sti", "sti"),
    _plain("clts", "clts"),
    Case("lmsw", "lmsw bx", ".byte 0x0F, 0x01, 0xF3", before="smsw bx"),
    _plain("lgdt", "lgdt [edi]", "mov edi, gdt_pointer"),
    _plain("lidt", "lidt [edi]", "mov edi, idt_pointer"),
    _plain("lldt", "lldt bx", "mov ebx, SEL_LDT"),
    Case(
        "ltr", "ltr of a task that is not busy", "and byte ptr [gdt + SEL_OTHER_TSS + 5], 0xFD\nltr bx",
        "and byte ptr [gdt + SEL_OTHER_TSS + 5], 0xFD", "mov ebx, SEL_OTHER_TSS",
    ),
    *(case for number in (0, 2, 3, 4) for case in _control(number)),
    _plain("mov-from-dr7", "mov ecx, dr7"),
    _plain("mov-to-dr7", "mov dr7, ecx", "mov ecx, 0x400"),
    _plain("invlpg", "invlpg [edi]", _AT_DATA),
    _plain("wbinvd", "wbinvd"),
    _plain("invd", "invd"),
    _plain("rdmsr", "rdmsr", "mov ecx, 0x174"),
    _plain("wrmsr", "wrmsr", "mov ecx, 0x174\nxor edx, edx"),
    _plain("out", "out 0x80, al"),
    Case("ins", "insb", "mov edi, ebx\ninsb", "mov edi, ebx", f"mov ebx, {_DATA}\nmov edx, 0x21\ncld"),
    Case("outs", "outsb", "mov esi, ebx\noutsb", "mov esi, ebx", f"mov ebx, {_DATA}\nmov edx, 0x80\ncld"),
    _plain("rdtsc", "rdtsc"),
    _plain("cpuid", "xor eax, eax\ncpuid"),
    Case(
        "sysenter", "sysenter and sysexit", "mov ecx, esp\nmov edx, 1f\nsysenter\n1:", "mov ecx, esp\nmov edx, 1f\n1:",
        "\n".join((
            "xor edx, edx", "mov ecx, 0x174", "mov eax, KERNEL_CODE", "wrmsr", "mov ecx, 0x175",
            "mov eax, KERNEL_STACK", "wrmsr", "mov ecx, 0x176", "mov eax, fast_call", "wrmsr",
        )),
        "fast_call:\nsysexit", ring=3,
    ),
)  # fmt: skip

ADAMS_AGESEN: Final = (
    Case("syscall", "INT 80h from ring 3 and IRET", "int INT_SYSTEM_CALL", ring=3),
    _plain("in", "in al, 0x21"),
    Case("cr8wr", "what raises the priority of a 32-bit kernel: OUT to the 8259A's mask", "mov al, 0xFF\nout 0x21, al",
         "mov al, 0xFF"),
    Case("callret", "near call and ret", "call near_leaf", routines="near_leaf:\nret"),
    Case("pgfault", "#PF and IRET, the page stays away", "mov ecx, dword ptr [ebx]", before="mov ebx, 0x1800000"),
    Case("divzero", "#DE and IRET", "div ebx", before="xor ebx, ebx"),
    Case(
        "ptemod", "an entry of the page tables in use changes", "xor dword ptr [edi], 0x200",
        before="mov edi, PAGE_TABLES + (DATA + 0x3000 >> 10)\nmov ecx, dword ptr [DATA + 0x3000]",
    ),
)  # fmt: skip

FLAGS: Final = Case("flags", "pushfd; cli; popfd", "pushfd\ncli\npopfd")

CASES: Final = (*CRITICAL, *PRIVILEGED, *ADAMS_AGESEN, FLAGS)
