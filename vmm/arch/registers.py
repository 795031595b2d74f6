"""General, segment and control registers.

Source: Intel SDM Vol. 1, "Basic Program Execution Registers"; Vol. 3A, "Control Registers".
"""

from enum import IntEnum, IntFlag


class Reg(IntEnum):
    """General registers in their encoding order (SDM Vol. 2A, "ModR/M and SIB Bytes")."""

    EAX = 0
    ECX = 1
    EDX = 2
    EBX = 3
    ESP = 4
    EBP = 5
    ESI = 6
    EDI = 7


class Seg(IntEnum):
    """Segment registers in their encoding order (SDM Vol. 2A, "Segment Field (sreg)")."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5


class Eflags(IntFlag):
    """EFLAGS (SDM Vol. 1, "EFLAGS Register")."""

    CF = 1 << 0
    ONE = 1 << 1  # reserved, reads as one
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21


ARITHMETIC = int(Eflags.CF | Eflags.PF | Eflags.AF | Eflags.ZF | Eflags.SF | Eflags.OF)


class Cr0(IntFlag):
    """CR0 (SDM Vol. 3A, "Control Registers")."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4  # hardwired to one on a P6
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31


class Cr4(IntFlag):
    """CR4 (SDM Vol. 3A, "Control Registers"), the bits a P6-class processor has."""

    VME = 1 << 0
    PVI = 1 << 1
    TSD = 1 << 2
    DE = 1 << 3
    PSE = 1 << 4
    PAE = 1 << 5
    MCE = 1 << 6
    PGE = 1 << 7
    PCE = 1 << 8
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10


class Efer(IntFlag):
    """IA32_EFER (SDM Vol. 4, "IA-32 Architectural MSRs"), the bits a processor without long mode has."""

    NXE = 1 << 11
