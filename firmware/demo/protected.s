# The critical instructions in 32-bit protected mode at ring 0, with tables of the demo's own.
#
# Source: Intel SDM Vol. 3A, "Switching to Protected Mode", "Switching Back to Real-Address Mode", "Protected-Mode
# Memory Management"; Vol. 2A-2D, the instructions.

.set SEL_CODE, 0x08                     # flat, 32-bit
.set SEL_DATA, 0x10
.set SEL_CODE16, 0x18                   # the way back
.set SEL_DATA16, 0x20
.set SEL_ALIAS, 0x28                    # flat code under another name
.set SEL_LDT, 0x30
.set SEL_TSS, 0x38
.set SEL_MARKER, 0x40                   # the marker alone
.set SEL_EXECUTE_ONLY, 0x48
.set SEL_READ_ONLY, 0x50
.set GDT_BYTES, 0x58
.set SEL_LDT_MARKER, 0x0C               # entry 1 of the LDT: the marker's last two bytes
.set VECTOR_DEMO_32, 0x40
.set IDT_VECTORS, 0x41
.set TSS_BYTES, 0x68

# enter_protected_mode: run the checks and the interrupts there; comes back to real mode. DS = ES = SS = 0.
enter_protected_mode:
    mov di, results
    call clear_results
    call build_idt
    cli
    mov si, gdt_pointer
    lgdt [si]
    mov si, idt_pointer
    lidt [si]
    mov word ptr [saved_sp], sp
    mov eax, cr0
    or al, 1                            # PE
    mov cr0, eax
    ljmp SEL_CODE:protected_mode

# real_mode_again: from the 16-bit code segment, with PE still set.
real_mode_again:
    mov ax, SEL_DATA16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xFE
    mov cr0, eax
    ljmp 0:.here
.here:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, word ptr [saved_sp]
    mov si, ivt_pointer
    lidt [si]
    call pic_for_bios
    sti
    ret

# build_idt: 32 exceptions, the two interrupts, the demo's vector; the TSS and LDT start as they were.
build_idt:
    mov byte ptr [gdt + SEL_TSS + 5], 0x89  # available again
    mov di, idt
    mov cx, 32
    mov ax, exception_stubs
1:  call gate
    add ax, EXCEPTION_STUB_BYTES
    loop 1b
    mov cx, IDT_VECTORS - 32
    mov ax, spurious_handler
1:  call gate
    loop 1b
    mov di, idt + 0x20 * 8
    mov ax, timer_handler
    call gate                           # 20h
    mov ax, keyboard_handler
    call gate                           # 21h
    mov di, idt + VECTOR_DEMO_32 * 8
    mov ax, demo_handler

# gate: a 32-bit interrupt gate to SEL_CODE:AX at DI; DI goes on.
gate:
    push ax
    stosw
    mov ax, SEL_CODE
    stosw
    mov ax, 0x8E00
    stosw
    xor ax, ax
    stosw
    pop ax
    ret

.code32

protected_mode:
    mov ax, SEL_DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    movzx esp, sp
    xor eax, eax
    mov fs, ax
    mov gs, ax
    cld
    mov ax, SEL_LDT
    lldt ax
    mov ax, SEL_TSS
    ltr ax
    call pic_for_demo
    mov edi, results
    mov dl, 1
    call check_system_instructions
    call check_segment_instructions
    call interrupts_in_protected_mode

# leave_protected_mode: also where an exception that nobody expected ends.
leave_protected_mode:
    cli
    ljmp SEL_CODE16:real_mode_again

# check_system_instructions: SGDT to VERW. EDI and DL as in checks.inc.
check_system_instructions:

    # SGDT, SIDT: limit and 32-bit base.
    mov dword ptr [buffer + 2], 0
    sgdt [buffer]
    movzx eax, word ptr [buffer]
    mov ecx, dword ptr [buffer + 2]
    saw eax, ecx
    same eax, GDT_BYTES - 1
    same ecx, gdt
    row_done
    mov dword ptr [buffer + 2], 0
    sidt [buffer]
    movzx eax, word ptr [buffer]
    mov ecx, dword ptr [buffer + 2]
    saw eax, ecx
    same eax, IDT_VECTORS * 8 - 1
    same ecx, idt
    row_done

    # SLDT: the selector that LLDT loaded.
    xor eax, eax
    sldt ax
    saw eax, 0
    same eax, SEL_LDT
    row_done

    # SMSW: protection is on, and the rest is CR0.
    xor eax, eax
    smsw ax
    mov ecx, cr0
    saw eax, ecx
    same ax, cx
    bits_set eax, 1                     # PE
    row_done

    # PUSHF shows what STI and CLI do; the interrupt controllers are masked meanwhile.
    sti
    pushfd
    cli
    pushfd
    pop ecx
    pop eax
    saw eax, ecx
    bits_set eax, 0x200                 # IF
    xor ecx, eax
    same ecx, 0x200
    row_done

    # POPF at CPL 0 reaches NT, IOPL and IF.
    sti
    push 0x7002
    popfd
    pushfd
    pop eax
    push 0x0002
    popfd
    saw eax, 0
    same eax, 0x7002
    row_done

    # LAR: type, DPL 0 and flags of the code segment; bits 19-16 are undefined. A null selector: ZF = 0.
    mov ecx, SEL_CODE
    xor eax, eax
    lar eax, ecx
    and eax, 0x00F0FF00
    saw eax, 0
    same eax, 0x00C09B00
    xor ecx, ecx
    lar eax, ecx
    setz cl
    same cl, 0
    row_done

    # LSL: limits of the flat code segment and of the LDT, in bytes.
    mov ecx, SEL_CODE
    lsl eax, ecx
    mov ecx, SEL_LDT
    lsl ecx, ecx
    saw eax, ecx
    same eax, -1
    same ecx, LDT_BYTES - 1
    row_done

    # VERR: flat code can be read, execute-only code cannot.
    mov ecx, SEL_CODE
    xor eax, eax
    verr cx
    setz al
    mov ebx, SEL_EXECUTE_ONLY
    xor ecx, ecx
    verr bx
    setz cl
    saw eax, ecx
    same eax, 1
    same ecx, 0
    row_done

    # VERW: data can be written, read-only data cannot.
    mov ecx, SEL_DATA
    xor eax, eax
    verw cx
    setz al
    mov ebx, SEL_READ_ONLY
    xor ecx, ecx
    verw bx
    setz cl
    saw eax, ecx
    same eax, 1
    same ecx, 0
    row_done
    ret

# check_segment_instructions: POP to MOV.
check_segment_instructions:

    # POP to a segment register: through the GDT, RPL as given, the base of the descriptor.
    push SEL_MARKER
    pop es
    xor eax, eax
    mov ax, es
    mov ecx, dword ptr es:[0]
    saw eax, ecx
    same eax, SEL_MARKER
    same ecx, MARKER_VALUE
    row_done
    push SEL_DATA
    pop es

    # PUSH of a segment register: RPL of CS and SS is CPL, which is 0.
    push cs
    pop eax
    push ss
    pop ecx
    and eax, 0xFFFF                     # the upper half of the slot need not be written
    and ecx, 0xFFFF
    saw eax, ecx
    same eax, SEL_CODE
    same ecx, SEL_DATA
    row_done

    # CALL far: the new CS, and the old one on the stack.
    lcall SEL_ALIAS:callee_32
.after_call:
    saw eax, ecx
    same eax, SEL_ALIAS
    same ecx, SEL_CODE
    same ebx, .after_call
    row_done

    # JMP far: there and back.
    ljmp SEL_ALIAS:.there
.there:
    xor eax, eax
    mov ax, cs
    ljmp SEL_CODE:.back
.back:
    xor ecx, ecx
    mov cx, cs
    saw eax, ecx
    same eax, SEL_ALIAS
    same ecx, SEL_CODE
    row_done

    # INT n through an interrupt gate: IF is clear in the handler and set in the flags on the stack.
    sti
    int VECTOR_DEMO_32
.after_int:
    cli
    saw ecx, eax
    bits_set ecx, 0x200
    bits_clear eax, 0x200
    same ebx, .after_int
    row_done

    # RET far: to a frame that no CALL made.
    push SEL_ALIAS
    push .returned
    retf
.returned:
    xor eax, eax
    mov ax, cs
    ljmp SEL_CODE:.home
.home:
    xor ecx, ecx
    mov cx, cs
    saw eax, ecx
    same eax, SEL_ALIAS
    same ecx, SEL_CODE
    row_done

    # STR: the selector that LTR loaded.
    xor eax, eax
    str ax
    saw eax, 0
    same eax, SEL_TSS
    row_done

    # MOV from and to segment registers: here through the LDT, and CPL 0 in CS.
    mov eax, SEL_LDT_MARKER
    mov es, ax
    xor eax, eax
    mov ax, es
    xor ecx, ecx
    mov cx, cs
    saw eax, ecx
    same eax, SEL_LDT_MARKER
    same ecx, SEL_CODE
    same word ptr es:[0], MARKER_VALUE >> 16
    row_done
    mov eax, SEL_DATA
    mov es, ax
    ret

# callee_32: called through SEL_ALIAS. EAX = CS here, ECX:EBX = return address.
callee_32:
    xor eax, eax
    mov ax, cs
    mov ebx, dword ptr [esp]
    movzx ecx, word ptr [esp + 4]
    retf

# demo_handler: EAX = flags in here, ECX = flags on the stack, EBX = EIP on the stack.
demo_handler:
    pushfd
    pop eax
    mov ebx, dword ptr [esp]
    mov ecx, dword ptr [esp + 8]
    iretd

# exception_stubs: exceptions 0-31; the address that CALL pushes tells which.
.set EXCEPTION_STUB_BYTES, 5
exception_stubs:
.rept 32
    call exception
.endr

# exception: nobody expects one. Note its number plus one and give up protected mode.
exception:
    pop eax
    sub eax, exception_stubs
    xor edx, edx
    mov ecx, EXCEPTION_STUB_BYTES
    div ecx
    mov byte ptr [unexpected], al
    mov eax, dword ptr [esp]            # the error code or EIP
    mov dword ptr [unexpected_result + R_SECOND], eax
    jmp leave_protected_mode
.code16
