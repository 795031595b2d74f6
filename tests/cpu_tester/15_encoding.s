# Group 12: LOCK and instruction length; group 13: encodings that do not exist.
#
# Sources: SDM Vol. 2A, "LOCK - Assert LOCK# Signal Prefix", "Instruction Prefixes"; Vol. 3A, "Interrupt 6 - Invalid Opcode
# Exception", "Interrupt 13 - General Protection Exception" (instruction length); Vol. 2D, "Opcode Map".

.include "frame.inc"
    GROUP 0x1201

# --- LOCK ------------------------------------------------------------------------------------------------------------------

.macro lock_taken codes:vararg
.irp code, \codes
    CASE PM32+3, "lock \code"
    mov     ebx, 0x40
    mov     ecx, 1
    lock \code
    PASSES
.endr
.endm
    lock_taken "add [ebx], eax", "adc [ebx], al", "and word ptr [ebx], 1", "or [ebx], ecx", "sbb byte ptr [ebx], 1"
    lock_taken "sub dword ptr [ebx], 1", "xor [ebx], ax", "inc dword ptr [ebx]", "dec byte ptr [ebx]", "not word ptr [ebx]"
    lock_taken "neg dword ptr [ebx]", "bts [ebx], ecx", "btr dword ptr [ebx], 1", "btc [ebx], ecx", "xchg [ebx], eax"
    lock_taken "cmpxchg [ebx], ecx", "cmpxchg8b [ebx]", "xadd [ebx], eax"

# The bytes behind LOCK: the destination is no memory, or the instruction takes no LOCK.
.macro lock_refused mode, codes:vararg
.irp code, \codes
    CASE \mode, "\mode: lock \code is #UD"
    mov     bx, 0x40
    movzx   ebx, bx
9:  .byte   0xF0
    \code
    FAULTS  UD, NONE
.endr
.endm
    lock_refused PM32+3, "nop", "add eax, ecx", "add eax, [ebx]", "adc al, cl", "and eax, 1", "inc eax", "dec cl", "not eax"
    lock_refused PM32+3, "neg ecx", "bts eax, ecx", "btr eax, 1", "btc ecx, eax", "xchg ecx, ebx", "cmpxchg eax, ecx"
    lock_refused PM32+3, "xadd eax, ecx", "mov [ebx], eax", "mov eax, [ebx]", "cmp [ebx], eax", "test [ebx], eax"
    lock_refused PM32+3, "bt [ebx], ecx", "shl dword ptr [ebx], 1", "push eax", "pop ecx", "push dword ptr [ebx]"
    lock_refused PM32+3, "lea eax, [ebx]", "movsb", "cmpsb", "stosb", "call 1f; 1:", "jmp 1f; 1:", "int3", "int 0x20", "hlt", "cli"
    lock_refused PM32+3, "cpuid", "rdtsc", "imul eax, [ebx]", "mul dword ptr [ebx]", "sete [ebx]", "cmp dword ptr [ebx], 1"
    lock_refused PM32+3, "in al, 0x80", "pushfd", "fld1", "mov ds, ax", "bswap eax", "cmovz eax, [ebx]", "enter 8, 0", "leave"
    lock_refused PM32+0, "hlt", "mov eax, cr0", "mov cr0, eax", "invlpg [ebx]", "lgdt [ebx]", "iretd", "clts", "wbinvd"
    lock_refused REAL, "nop", "mov [bx], ax", "add ax, [bx]", "inc ax"
    lock_refused PM16+3, "nop", "mov [bx], ax", "add ax, [bx]", "inc ax"
    lock_refused V86+0, "nop", "mov [bx], ax", "add ax, [bx]", "inc ax", "cli"

# --- length ------------------------------------------------------------------------------------------------------------------

.irp mode, PM32+0, PM32+3, PM16+3, V86+0
    CASE \mode, "\mode: an instruction of 15 bytes"
    .fill   14, 1, 0x26
    nop
    PASSES

    CASE \mode, "\mode: an instruction of 16 bytes is #GP(0)"
9:  .fill   15, 1, 0x26
    nop
    FAULTS  GP, 0

    CASE \mode, "\mode: an instruction of 16 bytes, half of them operands, is #GP(0)"
9:  .fill   11, 1, 0x3E
    .if (case_mode & 0xF0) == PM32
    add     dword ptr [ebx+0x12345678], 1
    .else
    .byte   0x66, 0x81, 0x06
    .word   0x40
    .long   1
    .endif
    FAULTS  GP, 0
.endr

    CASE REAL, "real: an instruction of 15 bytes"
    .fill   14, 1, 0x26
    nop
    PASSES

    CASE REAL, "real: an instruction of 16 bytes is #GP"
9:  .fill   15, 1, 0x26
    nop
    FAULTS  GP, NONE

# --- what does not exist on a 32-bit processor of the P6 class with SSE2 ----------------------------------------------------------

    GROUP 0x1301

.macro no_such mode, name, bytes:vararg
    CASE \mode, "\mode: \name is #UD"
9:  .byte   \bytes
    FAULTS  UD, NONE
.endm
.irp mode, PM32+3, PM32+0, REAL, V86+3
    no_such \mode, "UD2", 0x0F, 0x0B
    no_such \mode, "UD1", 0x0F, 0xB9, 0xC0
    no_such \mode, "0F FF", 0x0F, 0xFF, 0xC0
    no_such \mode, "FE /2", 0xFE, 0xD0
    no_such \mode, "FE /7", 0xFE, 0xF8
    no_such \mode, "FF /7", 0xFF, 0xF8
    no_such \mode, "FF /5 of a register", 0xFF, 0xE8
    no_such \mode, "FF /3 of a register", 0xFF, 0xD8
    no_such \mode, "8C /6", 0x8C, 0xF0
    no_such \mode, "8E /7", 0x8E, 0xF8
    no_such \mode, "8E /1", 0x8E, 0xC8
    no_such \mode, "8D of a register", 0x8D, 0xC0
    no_such \mode, "62 of a register", 0x62, 0xC0
    no_such \mode, "C4 of a register", 0xC4, 0xC0
    no_such \mode, "C5 of a register", 0xC5, 0xC0
    no_such \mode, "8F /1", 0x8F, 0xC8
    no_such \mode, "C6 /1", 0xC6, 0xC8, 0
    no_such \mode, "C7 /7", 0xC7, 0xF8, 0, 0
    no_such \mode, "0F 00 /6", 0x0F, 0x00, 0xF0
    no_such \mode, "0F 01 /5", 0x0F, 0x01, 0xE8
    no_such \mode, "lgdt of a register", 0x0F, 0x01, 0xD0
    no_such \mode, "sgdt of a register", 0x0F, 0x01, 0xC0
    no_such \mode, "invlpg of a register", 0x0F, 0x01, 0xFA
    no_such \mode, "0F BA /0", 0x0F, 0xBA, 0xC0, 1
    no_such \mode, "0F BA /3", 0x0F, 0xBA, 0xD8, 1
    no_such \mode, "0F C7 /0", 0x0F, 0xC7, 0x06
    no_such \mode, "cmpxchg8b of a register", 0x0F, 0xC7, 0xC8
    no_such \mode, "lss of a register", 0x0F, 0xB2, 0xC0
    no_such \mode, "0F 04", 0x0F, 0x04
    no_such \mode, "0F 0A", 0x0F, 0x0A
    no_such \mode, "0F 24", 0x0F, 0x24, 0xC0
    no_such \mode, "0F A6", 0x0F, 0xA6, 0xC0
    no_such \mode, "SYSCALL", 0x0F, 0x05
    no_such \mode, "MONITOR", 0x0F, 0x01, 0xC8
    no_such \mode, "VMCALL", 0x0F, 0x01, 0xC1
    no_such \mode, "XGETBV", 0x0F, 0x01, 0xD0
    no_such \mode, "VMLAUNCH", 0x0F, 0x01, 0xC2
    no_such \mode, "RDTSCP", 0x0F, 0x01, 0xF9
    no_such \mode, "RDRAND", 0x0F, 0xC7, 0xF0
    no_such \mode, "MOVBE", 0x0F, 0x38, 0xF0, 0x06
    no_such \mode, "CRC32", 0xF2, 0x0F, 0x38, 0xF0, 0xC0
    no_such \mode, "PSHUFB", 0x0F, 0x38, 0x00, 0xC1
    no_such \mode, "PALIGNR", 0x0F, 0x3A, 0x0F, 0xC1, 0
.endr
