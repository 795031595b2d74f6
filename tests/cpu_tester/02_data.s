# Group 02: data accesses in protected mode: limits, types, null selectors, and the accessed bit.
#
# Sources: SDM Vol. 3A, "Limit Checking", "Type Checking", "Null Segment Selector Checking", "Segment Descriptors".

.include "frame.inc"
    GROUP 0x0201

.macro load_segment seg, selector       # changes EAX
    mov     eax, \selector
    mov     \seg, eax
.endm

# --- limits of expand-up segments, in each mode and ring that has them ---------------------------------------------------

.macro limits mode, rpl, dpl, seg
    CASE \mode, "\mode \seg: a byte at the limit is within it"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+\dpl+RW
    RUN
    load_segment \seg, T0+\rpl
    mov     al, \seg:[0xFF]
    SHOWS   R_EAX, 0xFF, 0xFF
    PASSES

    CASE \mode, "\mode \seg: reading a byte beyond the limit is #GP(0)"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+\dpl+RW
    RUN
    load_segment \seg, T0+\rpl
9:  mov     al, \seg:[0x100]
    SHOWS   R_EAX, T0+\rpl
    FAULTS  GP, 0

    CASE \mode, "\mode \seg: writing a double word across the limit is #GP(0) and writes nothing"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+\dpl+RW
    RUN
    load_segment \seg, T0+\rpl
9:  mov     dword ptr \seg:[0xFD], 0
    SHOWS   DATA_BASE+0xFC, 0xFFFEFDFC
    SHOWS   DATA_BASE+0x100, 0x03020100
    FAULTS  GP, 0

    CASE \mode, "\mode \seg: the last double word is within the limit"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+\dpl+RW
    RUN
    load_segment \seg, T0+\rpl
    add     dword ptr \seg:[0xFC], 1
    SHOWS   DATA_BASE+0xFC, 0xFFFEFDFD
    PASSES

    CASE \mode, "\mode \seg: reading and writing across the limit is #GP(0) with flags and memory as they were"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFE, P+\dpl+RW
    RUN
    load_segment \seg, T0+\rpl
    xor     ebx, ebx
9:  adc     word ptr \seg:[0xFE], -1
    SHOWS   R_EFLAGS, F_ZF+F_PF, F_ZF+F_PF+F_CF
    SHOWS   DATA_BASE+0xFC, 0xFFFEFDFC
    FAULTS  GP, 0
.endm
.irp seg, ds, es, fs, gs
    limits  PM32+3, 3, DPL3, \seg
.endr
    limits  PM16+3, 3, DPL3, ds
    limits  PM16+3, 3, DPL3, fs
    limits  PM32+0, 0, DPL0, ds
    limits  PM32+0, 0, DPL0, es
    limits  PM16+0, 0, DPL0, es
    limits  PM32+1, 1, DPL1, ds
    limits  PM16+2, 2, DPL2, gs
    limits  PM32+3+PAGED, 3, DPL3, ds
    limits  PM32+0+PAGED, 0, DPL0, ds

# A case with DS as described; `check` is one of the ends, as "PASSES".
.macro with_ds name, base, limit, access, size, code, check:vararg
    CASE PM32+3, "\name"
    PREPARE
    DESCRIPTOR T0, \base, \limit, P+DPL3+\access, \size
    RUN
    load_segment ds, T0+3
9:  \code
    \check
.endm

    with_ds "limit 0 leaves one byte", DATA_BASE, 0, RW, B32, "mov al, ds:[0]", PASSES
    with_ds "limit 0: a word at 0 is #GP(0)", DATA_BASE, 0, RW, B32, "mov ax, ds:[0]", FAULTS GP, 0
    with_ds "limit 0 with G reaches to FFF", DATA_BASE, 0, RW, B32+G, "mov al, ds:[0xFFF]", PASSES
    with_ds "limit 0 with G: 1000 is #GP(0)", DATA_BASE, 0, RW, B32+G, "mov al, ds:[0x1000]", FAULTS GP, 0
    with_ds "limit 0 with G: a word at FFF is #GP(0)", DATA_BASE, 0, RW, B32+G, "mov ax, ds:[0xFFF]", FAULTS GP, 0
    with_ds "limit FFFFF reaches to FFFFF", DATA_BASE, 0xFFFFF, RW, B16, "mov al, ds:[0xFFFFF]", PASSES
    with_ds "limit FFFFF: 100000 is #GP(0)", DATA_BASE, 0xFFFFF, RW, B16, "mov al, ds:[0x100000]", FAULTS GP, 0
    with_ds "an access far beyond the limit is #GP(0)", DATA_BASE, 0xFFFF, RW, B32, "mov al, ds:[0xFFFFFFFF]", FAULTS GP, 0
    with_ds "offsets do not wrap below 0", DATA_BASE, 0xFFFF, RW, B32, "mov eax, ds:[0xFFFFFFFC]", FAULTS GP, 0
    with_ds "the base is added modulo 2^32", 0xFFFFF000, 0xFFFFF, RW, B32, "mov al, ds:[0x21005]", PASSES

# Expand-down: valid are the offsets above the limit, to FFFFh or, with B, FFFFFFFFh.
    with_ds "down: the limit itself is outside", DATA_BASE, 0xFF, DOWN_RW, B32, "mov al, ds:[0xFF]", FAULTS GP, 0
    with_ds "down: 0 is outside", DATA_BASE, 0xFF, DOWN_RW, B32, "mov al, ds:[0]", FAULTS GP, 0
    with_ds "down: the next offset is inside", DATA_BASE, 0xFF, DOWN_RW, B32, "mov al, ds:[0x100]", PASSES
    with_ds "down: an access across the limit is #GP(0)", DATA_BASE, 0xFF, DOWN_RW, B32, "mov ax, ds:[0xFF]", FAULTS GP, 0
    with_ds "down: writes are checked", DATA_BASE, 0xFF, DOWN_RW, B32, "mov byte ptr ds:[0xFF], 0", FAULTS GP, 0
    with_ds "down, B: 10000 is inside", DATA_BASE, 0xFF, DOWN_RW, B32, "mov al, ds:[0x10000]", PASSES
    with_ds "down, 16 bits: FFFF is inside", DATA_BASE, 0xFF, DOWN_RW, B16, "mov al, ds:[0xFFFF]", PASSES
    with_ds "down, 16 bits: 10000 is #GP(0)", DATA_BASE, 0xFF, DOWN_RW, B16, "mov al, ds:[0x10000]", FAULTS GP, 0
    with_ds "down, 16 bits: a word at FFFF is #GP(0)", DATA_BASE, 0xFF, DOWN_RW, B16, "mov ax, ds:[0xFFFF]", FAULTS GP, 0
    with_ds "down, 16 bits, limit FFFF: nothing is inside", DATA_BASE, 0xFFFF, DOWN_RW, B16, "mov al, ds:[0xFFFF]", FAULTS GP, 0
    with_ds "down, G: the limit is the end of the page", DATA_BASE, 0, DOWN_RW, B32+G, "mov al, ds:[0xFFF]", FAULTS GP, 0
    with_ds "down, G: the next page is inside", DATA_BASE, 0, DOWN_RW, B32+G, "mov al, ds:[0x1000]", PASSES
    with_ds "down, B: FFFFFFFF is inside", DATA_BASE+1, 0xFF, DOWN_RW, B32, "mov al, ds:[0xFFFFFFFF]", PASSES
    with_ds "down, limit FFFFFFFF: nothing is inside", DATA_BASE, 0xFFFFF, DOWN_RW, B32+G, "mov al, ds:[0xFFFFFFFF]", FAULTS GP, 0
    with_ds "down: read-only can be read", DATA_BASE, 0xFF, DOWN_RO, B32, "mov al, ds:[0x100]", PASSES
    with_ds "down: read-only cannot be written", DATA_BASE, 0xFF, DOWN_RO, B32, "mov byte ptr ds:[0x100], 1", FAULTS GP, 0

# --- types: SDM Vol. 3A, "Type Checking" ---------------------------------------------------------------------------------

    with_ds "read-only: reading", DATA_BASE, 0xFFFF, RO, B32, "mov eax, ds:[0x20]", PASSES
    with_ds "read-only: CMP and TEST write nothing", DATA_BASE, 0xFFFF, RO, B32, "cmp eax, ds:[0x20]", PASSES
    with_ds "read-only: BT writes nothing", DATA_BASE, 0xFFFF, RO, B32, "bt dword ptr ds:[0x20], 3", PASSES
    with_ds "read-only: PUSH reads", DATA_BASE, 0xFFFF, RO, B32, "push dword ptr ds:[0x20]", PASSES
.macro writes names:vararg
    .irp name, \names
    with_ds "read-only: \name is #GP(0)", DATA_BASE, 0xFFFF, RO, B32, "\name", FAULTS GP, 0
    with_ds "readable code: \name is #GP(0)", DATA_BASE, 0xFFFF, XR, B32, "\name", FAULTS GP, 0
    .endr
.endm
    writes  "mov ds:[0x20], eax", "mov byte ptr ds:[0x20], 1", "add ds:[0x20], eax", "adc byte ptr ds:[0x20], 0"
    writes  "inc dword ptr ds:[0x20]", "neg word ptr ds:[0x20]", "not byte ptr ds:[0x20]", "shl dword ptr ds:[0x20], 1"
    writes  "xchg ds:[0x20], eax", "bts dword ptr ds:[0x20], 3", "lock inc dword ptr ds:[0x20]", "setc ds:[0x20]"
    writes  "cmpxchg ds:[0x20], ecx", "xadd ds:[0x20], ecx", "cmpxchg8b ds:[0x20]", "shld ds:[0x20], eax, 1"
    writes  "mov word ptr ds:[0x20], ds", "sgdt ds:[0x20]", "sidt ds:[0x20]"
    writes  "sldt ds:[0x20]", "str ds:[0x20]", "smsw ds:[0x20]", "fstp dword ptr ds:[0x20]", "fnstcw ds:[0x20]"
    writes  "fnstsw ds:[0x20]", "mov ds:[0x20], al", "mov ds:[0x20], ax"

    CASE PM32+3, "read-only: POP to it is #GP(0) with ESP as it was"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RO
    RUN
    load_segment ds, T0+3
    push    0
9:  pop     dword ptr ds:[0x20]
    SHOWS   R_ESP, STACK_TOP-4
    FAULTS  GP, 0

    CASE PM32+3, "read-only: CMPXCHG that stores nothing new is #GP(0)"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RO
    RUN
    load_segment ds, T0+3
    mov     eax, 0
9:  cmpxchg ds:[0x20], ecx
    SHOWS   R_EAX, 0
    FAULTS  GP, 0

    CASE PM32+3, "read-only: a destination of MOVSB is #GP(0)"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RO
    RUN
    load_segment es, T0+3
    mov     esi, 0x20
    mov     edi, 0x40
9:  movsb
    SHOWS   R_ESI, 0x20
    SHOWS   R_EDI, 0x40
    FAULTS  GP, 0

    CASE PM32+3, "readable code: CS can be read"
    mov     al, cs:[1f]
    jmp     2f
1:  .byte   0x5A
2:
    SHOWS   R_EAX, 0x5A, 0xFF
    PASSES

.macro through_code type, mode, dpl, rpl, code, check:vararg
    CASE \mode, "\mode \type code in CS: \code"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0xFFFF, P+\dpl+\type
    RUN
    ljmp    T0+\rpl, offset 1f
1:
9:  \code
    \check
.endm
    through_code XR, PM32+3, DPL3, 3, "mov eax, cs:[0x20]", PASSES
    through_code XO, PM32+3, DPL3, 3, "mov eax, cs:[0x20]", FAULTS GP, 0, T0+3
    through_code XO, PM32+0, DPL0, 0, "mov al, cs:[0x20]", FAULTS GP, 0, T0
    through_code XR, PM32+3, DPL3, 3, "mov cs:[0x20], eax", FAULTS GP, 0, T0+3
    through_code XR, PM32+0, DPL0, 0, "mov cs:[0x20], eax", FAULTS GP, 0, T0
    through_code CONF_XR, PM32+3, DPL0, 3, "mov eax, cs:[0x20]", PASSES
    through_code CONF_XO, PM32+3, DPL0, 3, "mov eax, cs:[0x20]", FAULTS GP, 0, T0+3
    through_code CONF_XR, PM32+3, DPL0, 3, "mov cs:[0x20], eax", FAULTS GP, 0, T0+3

    CASE PM32+3, "execute-only: CS can be read as far as instructions go"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0xFFFF, P+DPL3+XO
    RUN
    ljmp    T0+3, offset 1f
1:  mov     eax, 0x12345678
    SHOWS   R_EAX, 0x12345678
    PASSES

# --- null selectors: SDM Vol. 3A, "Null Segment Selector Checking" ----------------------------------------------------------

.macro null mode, seg, rpl
    CASE \mode, "\mode \seg: a null selector can be loaded"
    load_segment \seg, \rpl
    SHOWS   R_\seg, \rpl, 0xFFFF
    PASSES

    CASE \mode, "\mode \seg: reading through a null selector is #GP(0)"
    load_segment \seg, \rpl
9:  mov     al, \seg:[0x20]
    FAULTS  GP, 0

    CASE \mode, "\mode \seg: writing through a null selector is #GP(0)"
    load_segment \seg, \rpl
9:  mov     dword ptr \seg:[0x20], eax
    SHOWS   DATA_BASE+0x20, 0x23222120
    FAULTS  GP, 0
.endm
.equ R_ds, R_DS
.equ R_es, R_ES
.equ R_fs, R_FS
.equ R_gs, R_GS
.irp seg, ds, es, fs, gs
    null    PM32+3, \seg, 0
    null    PM32+0, \seg, 3
    null    PM16+3, \seg, 1
.endr

    CASE PM32+3, "null: LEA and NOP with an operand do not use the segment"
    load_segment ds, 0
    lea     eax, [esi+0x20]
    nop     dword ptr ds:[0x20]
    SHOWS   R_EAX, 0x51525374
    PASSES

    CASE PM32+3, "null: STOSB is #GP(0) with EDI as it was"
    load_segment es, 0
9:  stosb
    SHOWS   R_EDI, 0xD4D5D6D7
    FAULTS  GP, 0

    CASE PM32+3, "null: REP STOSB with ECX = 0 does nothing"
    load_segment es, 0
    xor     ecx, ecx
    rep stosb
    PASSES

    CASE PM32+3, "null: a return to an outer ring leaves null what the ring may not have"
    PREPARE
    mov     dword ptr ds:[TSS_A + 4], HANDLER_STACK
    INTERRUPT_GATE 0x20, CODE32, 1f, P+DPL3+A_INT32
    RUN
    int     0x20
8:  mov     ax, ds
    mov     bx, es
    mov     cx, fs
    jmp     2f
1:  mov     edx, DATA
    mov     ds, edx
    mov     edx, DATA+8
    mov     es, edx
    mov     edx, DATA+24
    mov     fs, edx
    iretd
2:
    SHOWS   R_EAX, 0, 0xFFFF
    SHOWS   R_EBX, 0, 0xFFFF
    SHOWS   R_ECX, DATA+24, 0xFFFF
    PASSES

# --- what instructions read and write beyond a limit: each has the checks of a data access -------------------------------------

# DS has the limit FFh, and EBX is FFh.
.macro beyond names:vararg
    .irp name, \names
    CASE PM32+3, "beyond the limit: \name is #GP(0)"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment ds, T0+3
    mov     ebx, 0xFF
    push    0
9:  \name
    SHOWS   R_ESP, STACK_TOP-4
    SHOWS   R_EBX, 0xFF
    FAULTS  GP, 0
    .endr
.endm
    beyond  "push dword ptr [ebx]", "pop dword ptr [ebx]", "mov word ptr [ebx], ds", "mov es, word ptr [ebx]"
    beyond  "les eax, [ebx-4]", "lds eax, [ebx-4]", "lss eax, [ebx-4]", "lfs eax, [ebx-4]", "lgs eax, [ebx-4]"
    beyond  "bound eax, [ebx-6]", "sgdt [ebx-4]", "sidt [ebx-4]", "sldt [ebx]", "str [ebx]", "smsw [ebx]"
    beyond  "verr [ebx]", "verw [ebx]", "lar eax, [ebx]", "lsl eax, [ebx]", "arpl [ebx], ax"
    beyond  "jmp dword ptr [ebx-2]", "call dword ptr [ebx-2]", "jmp fword ptr [ebx-4]", "call fword ptr [ebx-4]"
    beyond  "bt [ebx+1], edx", "xlat byte ptr [ebx]", "cmpxchg8b [ebx-6]", "movzx eax, word ptr [ebx]"
    beyond  "imul eax, [ebx-2]", "div dword ptr [ebx-2]", "mul word ptr [ebx]", "cmovz eax, [ebx-2]"
    beyond  "fld dword ptr [ebx-2]", "fld qword ptr [ebx-6]", "fld tbyte ptr [ebx-8]", "fild word ptr [ebx]"
    beyond  "fstp tbyte ptr [ebx-8]", "fldcw [ebx]", "fldenv [ebx-26]", "fnstenv [ebx-26]", "fnsave [ebx-106]"
    beyond  "fist dword ptr [ebx-2]", "movq mm0, [ebx-6]", "movd mm0, [ebx-2]"

    CASE PM32+3, "beyond the limit: BT reaches 32 bits from its address, as far as its offset says"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment ds, T0+3
    mov     eax, 0x7FF
    bt      ds:[0], eax
    mov     eax, 0x800
9:  bt      ds:[0], eax
    FAULTS  GP, 0

    CASE PM32+3, "beyond the limit: REP MOVSD stops where it faults"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment es, T0+3
    mov     esi, 0x200
    mov     edi, 0xF4
    mov     ecx, 9
9:  rep movsd
    SHOWS   R_ECX, 6
    SHOWS   R_ESI, 0x20C
    SHOWS   R_EDI, 0x100
    SHOWS   DATA_BASE+0x100, 0x03020100
    FAULTS  GP, 0

    CASE PM32+3, "beyond the limit: REP STOSB downwards stops at 0", F_DF
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment es, T0+3
    mov     edi, 2
    mov     ecx, 9
9:  rep stosb
    SHOWS   R_ECX, 6
    SHOWS   R_EDI, 0xFFFFFFFF
    SHOWS   DATA_BASE, 0x03131313
    FAULTS  GP, 0

    CASE PM32+3, "beyond the limit: REPE CMPSB stops where it faults"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment es, T0+3
    mov     esi, 0xF0
    mov     edi, 0xF0
    mov     ecx, 0x20
9:  repe cmpsb
    SHOWS   R_ECX, 0x10
    SHOWS   R_EDI, 0x100
    SHOWS   R_ESI, 0x100
    FAULTS  GP, 0

    CASE PM32+3, "beyond the limit: REP LODSD loads what it has read before it faults"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment ds, T0+3
    mov     esi, 0xF8
    mov     ecx, 5
9:  rep lodsd
    SHOWS   R_ECX, 3
    SHOWS   R_EAX, 0xFFFEFDFC
    FAULTS  GP, 0

    CASE PM16+3, "16-bit addresses wrap, and the limit counts behind that"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL3+RW
    RUN
    load_segment ds, T0+3
    mov     bx, 0xFFF0
    mov     al, [bx+0x20]
9:  mov     al, [bx+0x0F]
    SHOWS   R_EAX, 0x10, 0xFF
    FAULTS  GP, 0

# --- descriptors are read at loads only: SDM Vol. 3A, "Segment Registers" ------------------------------------------------------

    CASE PM32+0, "a descriptor that changes behind a load does not count"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL0+RW
    RUN
    mov     eax, MON_DATA
    mov     es, eax
    load_segment ds, T0
    mov     dword ptr es:[GDT+T0], 0xFFFF
    mov     al, ds:[0x30]
9:  mov     al, ds:[0x100]
    SHOWS   R_EAX, 0x30, 0xFF
    FAULTS  GP, 0

    CASE PM32+0, "a descriptor that becomes not present behind a load does not count"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFF, P+DPL0+RW
    RUN
    mov     eax, MON_DATA
    mov     es, eax
    load_segment fs, T0
    mov     dword ptr es:[GDT+T0+4], 0
    mov     al, fs:[0x30]
    SHOWS   R_EAX, 0x30, 0xFF
    PASSES

# --- the accessed bit: SDM Vol. 3A, "Code- and Data-Segment Descriptor Types" ---------------------------------------------------

.irp seg, ds, es, fs, gs, ss
    CASE PM32+3, "loading \seg sets the accessed bit"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW
    RUN
    load_segment \seg, T0+3
    SHOWS   GDT+T0+4, (P+DPL3+RW+ACCESSED)<<8, 0xFF00
    PASSES
.endr

    CASE PM32+3, "loading DS with code sets the accessed bit"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+XR
    RUN
    load_segment ds, T0+3
    SHOWS   GDT+T0+4, (P+DPL3+XR+ACCESSED)<<8, 0xFF00
    PASSES

    CASE PM32+3, "a load that faults leaves the accessed bit clear"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, DPL3+RW
    RUN
    mov     eax, T0+3
9:  mov     ds, eax
    SHOWS   GDT+T0+4, (DPL3+RW)<<8, 0xFF00
    FAULTS  NP, T0

    CASE PM32+3, "a far jump sets the accessed bit of code"
    PREPARE
    DESCRIPTOR T0, CODE_BASE, 0xFFFF, P+DPL3+XR
    RUN
    ljmp    T0+3, offset 1f
1:
    SHOWS   GDT+T0+4, (P+DPL3+XR+ACCESSED)<<8, 0xFF00
    PASSES

    CASE PM32+3, "VERR, LAR and LSL leave the accessed bit clear"
    PREPARE
    DESCRIPTOR T0, DATA_BASE, 0xFFFF, P+DPL3+RW
    RUN
    mov     eax, T0+3
    verr    ax
    verw    ax
    lar     ebx, eax
    lsl     ebx, eax
    SHOWS   GDT+T0+4, (P+DPL3+RW)<<8, 0xFF00
    PASSES

    CASE PM32+3, "a descriptor in the LDT gets its accessed bit, too"
    PREPARE
    DESCRIPTOR L1, DATA_BASE, 0xFFFF, P+DPL3+RW
    RUN
    load_segment ds, L1+3
    mov     al, ds:[0x30]
    SHOWS   LDT+8+4, (P+DPL3+RW+ACCESSED)<<8, 0xFF00
    SHOWS   R_EAX, 0x30, 0xFF
    PASSES

# --- the end of 64-KByte segments in 16-bit code ---------------------------------------------------------------------------------

.irp seg, ds, es, fs, gs
    CASE PM16+3, "16 bits: reading a word at \seg:FFFF is #GP(0)"
9:  mov     ax, \seg:[0xFFFF]
    SHOWS   R_EAX, 0xA0A1A2A3
    FAULTS  GP, 0

    CASE PM16+0, "16 bits, ring 0: writing a double word at \seg:FFFD is #GP(0)"
9:  mov     dword ptr \seg:[0xFFFD], ecx
    SHOWS   DATA_BASE+0xFFFC, 0
    FAULTS  GP, 0
.endr

    CASE PM16+3, "16 bits: lodsw at FFFF is #GP(0)"
    mov     si, 0xFFFF
9:  lodsw
    SHOWS   R_ESI, 0x5152FFFF
    FAULTS  GP, 0

    CASE PM16+3, "16 bits: a 32-bit address beyond FFFF is #GP(0)"
    mov     ebx, 0x10000
9:  mov     al, [ebx]
    FAULTS  GP, 0

    CASE PM16+3, "16 bits: repne scasb wraps at 64 KiB"
    mov     di, 0xFFFE
    mov     cx, 8
    mov     al, 3
    repne scasb
    SHOWS   R_EDI, 0xD4D50004
    SHOWS   R_ECX, 0xC0C10002
    PASSES

.irp mode, PM32+3, PM32+0, PM16+3
    CASE \mode, "\mode: an access that faults leaves the stack alone: call through memory beyond the limit"
    mov     ebx, 0xFFFFFF
    .if (case_mode & 0xF0) == PM32
9:  call    dword ptr [ebx]
    .else
9:  .byte   0x67, 0xFF, 0x13            # CALL m16 [EBX]
    .endif
    SHOWS   R_ESP, STACK_TOP
    FAULTS  GP, 0
.endr
