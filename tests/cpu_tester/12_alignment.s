# Group 0F: alignment checks: at CPL 3, with CR0.AM and EFLAGS.AC. The error code is 0.
#
# Source: SDM Vol. 3A, "Interrupt 17 - Alignment Check Exception", with its table of alignments by data type.

.include "frame.inc"
    GROUP 0x0F01

.equ CR0_AM, 1 << 18

.macro set_am
    mov     eax, cr0
    or      eax, CR0_AM
    mov     cr0, eax
.endm

# `code` with AM and AC set; EBX is 40h in DS. `verdict` is its end.
.macro aligned mode, name, code, verdict:vararg
    CASE \mode, "\mode, alignment: \name", F_AC
    PREPARE
    set_am
    RUN
    mov     ebx, 0x40
    mov     esi, 0x41
    mov     edi, 0x80
9:  \code
    \verdict
.endm
.macro ACCESS_FAULT
    SHOWS   R_ESP, STACK_TOP
    FAULTS  AC, 0
.endm
    aligned PM32+3, "a byte", "mov al, [ebx+1]", PASSES
    aligned PM32+3, "a word at an odd address", "mov ax, [ebx+1]", ACCESS_FAULT
    aligned PM32+3, "a word at an even address", "mov ax, [ebx+2]", PASSES
    aligned PM32+3, "a word at the end of a double word", "mov ax, [ebx+3]", ACCESS_FAULT
    aligned PM32+3, "a double word at +1", "mov eax, [ebx+1]", ACCESS_FAULT
    aligned PM32+3, "a double word at +2", "mov eax, [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "a double word at +4", "mov eax, [ebx+4]", PASSES
    aligned PM32+3, "a store at +2", "mov [ebx+2], eax", ACCESS_FAULT
    aligned PM32+3, "reading and writing at +2", "add [ebx+2], eax", ACCESS_FAULT
    aligned PM32+3, "lock at +2", "lock add [ebx+2], eax", ACCESS_FAULT
    aligned PM32+3, "xchg at +1", "xchg [ebx+1], ax", ACCESS_FAULT
    aligned PM32+3, "push of memory at +2", "push dword ptr [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "movsd from +1", "movsd", ACCESS_FAULT
    aligned PM32+3, "rep movsb at +1", "mov ecx, 3; rep movsb", PASSES
    aligned PM32+3, "lea of an odd address", "lea eax, [ebx+1]", PASSES
    aligned PM32+3, "8 bytes of the FPU at +4", "fld qword ptr [ebx+4]", ACCESS_FAULT
    aligned PM32+3, "8 bytes of the FPU at +8", "fld qword ptr [ebx+8]", PASSES
    aligned PM32+3, "4 bytes of the FPU at +2", "fld dword ptr [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "2 bytes of the FPU at +1", "fldcw [ebx+1]", ACCESS_FAULT
    aligned PM32+3, "cmpxchg8b at +4", "cmpxchg8b [ebx+4]", ACCESS_FAULT
    aligned PM32+3, "a selector at +1", "verr [ebx+1]", ACCESS_FAULT
    aligned PM32+3, "mov to a segment register from +1", "mov es, [ebx+1]", ACCESS_FAULT
    aligned PM32+3, "mov from a segment register to +1", "mov [ebx+1], es", ACCESS_FAULT
    aligned PM32+3, "a 48-bit pointer at +2", "lfs eax, [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "bounds at +2", "bound eax, [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "bt of 32 bits at +2", "mov eax, 1; 9: bt [ebx+2], eax", ACCESS_FAULT
    aligned PM32+3, "jmp through +2", "jmp dword ptr [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "movq at +4", "movq mm0, [ebx+4]", ACCESS_FAULT
    aligned PM32+3, "the limit comes first", "mov eax, ds:[0xFFFE]", FAULTS GP, 0
    aligned PM16+3, "a word at an odd address", "mov ax, [bx+1]", ACCESS_FAULT
    aligned PM16+3, "a double word at +2", "mov eax, [bx+2]", ACCESS_FAULT
    aligned V86+0, "a word at an odd address", "mov ax, [bx+1]", ACCESS_FAULT
    aligned V86+3, "a double word at +2", "mov eax, [bx+2]", ACCESS_FAULT
    aligned V86+3, "a word at an even address", "mov ax, [bx+2]", PASSES
.irp mode, PM32+0, PM32+1, PM32+2, PM16+0, REAL
    aligned \mode, "no checks outside ring 3", "mov eax, ds:[0x41]", PASSES
.endr

.macro at_odd_stack name, code, esp
    CASE PM32+3, "alignment, on the stack: \name", F_AC
    PREPARE
    set_am
    RUN
    mov     esp, \esp
9:  \code
    SHOWS   R_ESP, \esp
    FAULTS  AC, 0
.endm
    at_odd_stack "push", "push eax", 0x802
    at_odd_stack "push of 16 bits", "push ax", 0x801
    at_odd_stack "pop", "pop eax", 0x802
    at_odd_stack "pushad", "pushad", 0x802
    at_odd_stack "call", "call 1f; 1:", 0x802
    at_odd_stack "ret", "ret", 0x802
    at_odd_stack "pushfd", "pushfd", 0x802
    at_odd_stack "iretd", "iretd", 0x802
    at_odd_stack "retf", "retf", 0x802
    at_odd_stack "enter", "enter 8, 0", 0x802

    CASE PM32+3, "alignment: without AC nothing is checked"
    PREPARE
    set_am
    RUN
    mov     eax, ds:[0x41]
    PASSES

    CASE PM32+3, "alignment: without AM nothing is checked", F_AC
    mov     eax, ds:[0x41]
    PASSES

    CASE PM32+3, "alignment: popfd sets AC"
    PREPARE
    set_am
    RUN
    mov     eax, ds:[0x41]
    push    F_AC+2
    popfd
9:  mov     ebx, ds:[0x41]
    SHOWS   R_EAX, 0x44434241
    FAULTS  AC, 0

    CASE PM32+3, "alignment: linear addresses count, not offsets", F_AC
    PREPARE
    set_am
    DESCRIPTOR T0, DATA_BASE+1, 0xFFFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    mov     fs, eax
    mov     eax, fs:[0x43]
9:  mov     eax, fs:[0x40]
    FAULTS  AC, 0

    CASE PM32+3, "alignment: the handler's frame is not checked, as ring 0 writes it", F_AC
    PREPARE
    set_am
    mov     dword ptr ds:[TSS_A+4], HANDLER_STACK-1
    RUN
    PASSES

    CASE PM32+3, "alignment: a handler in ring 0 runs unchecked with AC set", F_AC
    PREPARE
    set_am
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
1:  mov     eax, ds:[0x41]
    SHOWS   R_EAX, 0x44434241
    SHOWS   R_EFLAGS, F_AC, F_AC
    PASSES

    aligned PM32+3, "far jmp through +2", "jmp fword ptr [ebx+2]", ACCESS_FAULT
    aligned PM32+3, "far call through +1", "call fword ptr [ebx+1]", ACCESS_FAULT
