# The critical instructions in real mode. Six of them exist in protected mode only and are #UD here.
#
# Source: Intel SDM Vol. 2A-2D, the instructions' "Real-Address Mode Exceptions"; Vol. 3B, "8086 Emulation".

.set VECTOR_UD, 6 * 4
.set VECTOR_DEMO, 0x60 * 4
.set ALIAS, 0x0700                      # a second segment that this code can be reached through
.set MARKER_SEGMENT, marker / 16
.set MARKER_VALUE, 0x564D4D21

# take_vectors, give_vectors_back: #UD and INT 60h belong to the demo in between.
take_vectors:
    mov eax, dword ptr [VECTOR_UD]
    mov dword ptr [saved_ud], eax
    mov eax, dword ptr [VECTOR_DEMO]
    mov dword ptr [saved_demo], eax
    mov word ptr [VECTOR_UD], undefined_opcode
    mov word ptr [VECTOR_UD + 2], 0
    mov word ptr [VECTOR_DEMO], demo_interrupt
    mov word ptr [VECTOR_DEMO + 2], 0
    ret
give_vectors_back:
    mov eax, dword ptr [saved_ud]
    mov dword ptr [VECTOR_UD], eax
    mov eax, dword ptr [saved_demo]
    mov dword ptr [VECTOR_DEMO], eax
    ret

# undefined_opcode: #UD is a fault: IP on the stack is the instruction's. Note it and go on at [resume].
undefined_opcode:
    push bp
    mov bp, sp
    push ax
    mov ax, word ptr [bp + 2]
    mov word ptr [fault_ip], ax
    mov ax, word ptr [resume]
    mov word ptr [bp + 2], ax
    pop ax
    pop bp
    iret

# demo_interrupt: INT 60h. AX = flags in here, CX = flags on the stack, BX = IP on the stack.
demo_interrupt:
    push bp
    mov bp, sp
    pushf
    pop ax
    mov bx, word ptr [bp + 2]
    mov cx, word ptr [bp + 6]
    pop bp
    iret

# undefined: the instruction at `at` must have raised #UD with its own address.
.macro undefined at
    mov ax, word ptr [fault_ip]
    mov word ptr [di + R_FIRST], ax
    same ax, \at
    mov word ptr [fault_ip], 0
    real_row_done
.endm

# check_real_mode: fill `results`.
check_real_mode:
    mov di, results
    call clear_results
    mov dl, 1

    # SGDT stores what LGDT loaded.
    mov si, gdt_pointer
    lgdt [si]
    mov bx, buffer
    sgdt [bx]
    mov ax, word ptr [buffer]
    mov word ptr [di + R_FIRST], ax
    same ax, GDT_BYTES - 1
    mov eax, dword ptr [buffer + 2]
    mov dword ptr [di + R_SECOND], eax
    same eax, gdt
    real_row_done

    # SIDT stores what LIDT loaded: the interrupt vectors.
    mov si, ivt_pointer
    lidt [si]
    mov bx, buffer
    sidt [bx]
    mov ax, word ptr [buffer]
    mov word ptr [di + R_FIRST], ax
    same ax, 0x3FF
    mov eax, dword ptr [buffer + 2]
    mov dword ptr [di + R_SECOND], eax
    same eax, 0
    real_row_done

    # SLDT is not recognised.
    mov word ptr [resume], .after_sldt
.sldt:
    sldt ax
.after_sldt:
    undefined .sldt

    # SMSW: protection is off, and the rest is CR0.
    smsw ax
    mov word ptr [di + R_FIRST], ax
    mov ecx, cr0
    mov dword ptr [di + R_SECOND], ecx
    same ax, cx
    bits_clear ax, 1                    # PE
    real_row_done

    # PUSHF shows what STI and CLI do, and nothing else changes.
    sti
    pushf
    cli
    pushf
    pop cx
    pop ax
    mov word ptr [di + R_FIRST], ax
    mov word ptr [di + R_SECOND], cx
    bits_set ax, 0x0200                 # IF
    xor cx, ax
    same cx, 0x0200
    real_row_done

    # POPF reaches NT, IOPL and IF.
    sti
    push 0x7002
    popf
    pushf
    pop ax
    push 0x0002
    popf
    mov word ptr [di + R_FIRST], ax
    same ax, 0x7002
    real_row_done

    # LAR, LSL, VERR and VERW are not recognised.
    mov word ptr [resume], .after_lar
.lar:
    lar ax, bx
.after_lar:
    undefined .lar
    mov word ptr [resume], .after_lsl
.lsl:
    lsl ax, bx
.after_lsl:
    undefined .lsl
    mov word ptr [resume], .after_verr
.verr:
    verr ax
.after_verr:
    undefined .verr
    mov word ptr [resume], .after_verw
.verw:
    verw ax
.after_verw:
    undefined .verw

    # POP to a segment register: the selector stays as it is, its base is 16 times as much.
    push MARKER_SEGMENT
    pop es
    mov ax, es
    mov ecx, dword ptr es:[0]
    mov word ptr [di + R_FIRST], ax
    mov dword ptr [di + R_SECOND], ecx
    same ax, MARKER_SEGMENT
    same ecx, MARKER_VALUE
    real_row_done

    # PUSH of a segment register: what was loaded.
    push es
    pop ax
    push cs
    pop cx
    mov word ptr [di + R_FIRST], ax
    mov word ptr [di + R_SECOND], cx
    same ax, MARKER_SEGMENT
    same cx, 0
    real_row_done
    push 0
    pop es

    # CALL far: the new CS, and the old one on the stack.
    lcall ALIAS:CALLEE_OFFSET
.after_call:
    mov word ptr [di + R_FIRST], ax
    mov word ptr [di + R_SECOND], cx
    same ax, ALIAS
    same cx, 0
    same bx, .after_call
    real_row_done

    # JMP far: there and back.
    ljmp ALIAS:THERE_OFFSET
.there:
    mov ax, cs
    ljmp 0:.back
.back:
    mov cx, cs
    mov word ptr [di + R_FIRST], ax
    mov word ptr [di + R_SECOND], cx
    same ax, ALIAS
    same cx, 0
    real_row_done

    # INT n: IF is clear in the handler and set in the flags on the stack.
    sti
    int 0x60
.after_int:
    cli
    mov word ptr [di + R_FIRST], cx
    mov word ptr [di + R_SECOND], ax
    bits_set cx, 0x0200
    bits_clear ax, 0x0200
    same bx, .after_int
    real_row_done

    # RET far: to a frame that no CALL made.
    push ALIAS
    push RETURN_OFFSET
    retf
.returned:
    mov ax, cs
    ljmp 0:.home
.home:
    mov cx, cs
    mov word ptr [di + R_FIRST], ax
    mov word ptr [di + R_SECOND], cx
    same ax, ALIAS
    same cx, 0
    real_row_done

    # STR is not recognised.
    mov word ptr [resume], .after_str
.str:
    str ax
.after_str:
    undefined .str

    # MOV from and to a segment register.
    mov ax, MARKER_SEGMENT
    mov es, ax
    mov ax, es
    mov cx, cs
    mov word ptr [di + R_FIRST], ax
    mov word ptr [di + R_SECOND], cx
    same ax, MARKER_SEGMENT
    same cx, 0
    real_row_done
    push 0
    pop es
    sti
    ret

.set THERE_OFFSET, .there - ALIAS * 16
.set RETURN_OFFSET, .returned - ALIAS * 16

# callee: called through ALIAS. AX = CS here, CX:BX = return address.
callee:
    push bp
    mov bp, sp
    mov ax, cs
    mov bx, word ptr [bp + 2]
    mov cx, word ptr [bp + 4]
    pop bp
    retf
.set CALLEE_OFFSET, callee - ALIAS * 16

# clear_results: all results wrong until a check has run; DI stays.
clear_results:
    push di
    mov di, results
    mov cx, RESULTS * RESULT_BYTES
    xor al, al
    rep stosb
    pop di
    ret
