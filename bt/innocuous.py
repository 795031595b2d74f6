"""The instructions that do the same at every ring: copied into the cache as they are.

A positive list: what is neither here nor in the tables of `translate` does not exist on the virtual CPU and is #UD. It
is a P6 with FPU, MMX, SSE and SSE2. Source: SDM Vol. 1, "Instruction Set Summary"; Capstone's spelling.
"""

from typing import Final

_CONDITIONS: Final = "o no b ae e ne be a s ns p np l ge le g".split()
_SIZES: Final = "b w d".split()

_INTEGER: Final = """
    aaa aad aam aas adc add and bound bsf bsr bswap bt btc btr bts cbw cdq clc cld cmc cmp cmpxchg cwd
    cwde daa das dec div endbr32 endbr64 idiv imul inc lahf lea leave movabs movsx movzx mul neg not or
    pause popal popaw pushal pushaw rol ror sahf sal salc sar sbb shl shld shr shrd stc std sub wait
    xadd xchg xlatb xor
""".split()

_X87: Final = """
    f2xm1 fabs fadd faddp fbld fbstp fchs fcmovb fcmovbe fcmove fcmovnb fcmovnbe fcmovne fcmovnu fcmovu fcom
    fcomi fcomp fcompi fcompp fcos fdecstp fdiv fdivp fdivr fdivrp ffree ffreep fiadd ficom ficomp fidiv fidivr
    fild fimul fincstp fist fistp fisub fisubr fld fld1 fldcw fldl2e fldl2t fldlg2 fldln2 fldpi fldz fmul
    fmulp fnclex fninit fnop fnstcw fnstsw fpatan fprem fprem1 fptan frndint fscale fsin
    fsincos fsqrt fst fstp fstpnce fsub fsubp fsubr fsubrp ftst fucom fucomi fucomp fucompi fucompp fxam fxch
    fxtract fyl2x fyl2xp1 fcomip fucomip fdisi8087_nop feni8087_nop fsetpm
""".split()

_MMX: Final = """
    emms movd movq packssdw packsswb packuswb paddb paddd paddsb paddsw paddusb paddusw paddw pand pandn pcmpeqb
    pcmpeqd pcmpeqw pcmpgtb pcmpgtd pcmpgtw pmaddwd pmulhw pmullw por pslld psllq psllw psrad psraw psrld psrlq
    psrlw psubb psubd psubsb psubsw psubusb psubusw psubw punpckhbw punpckhdq punpckhwd punpcklbw punpckldq
    punpcklwd pxor
""".split()

_SSE: Final = """
    addps addss andnps andps comiss cvtpi2ps cvtps2pi cvtsi2ss cvtss2si cvttps2pi cvttss2si divps divss
    ldmxcsr maskmovq maxps maxss minps minss movaps movhlps movhps movlhps movlps movmskps movntps movntq movss movups
    mulps mulss orps pavgb pavgw pextrw pinsrw pmaxsw pmaxub pminsw pminub pmovmskb pmulhuw prefetchnta
    prefetcht0 prefetcht1 prefetcht2 psadbw pshufw rcpps rcpss rsqrtps rsqrtss sfence shufps sqrtps sqrtss
    stmxcsr subps subss ucomiss unpckhps unpcklps xorps
""".split()

_SSE2: Final = """
    addpd addsd andnpd andpd comisd cvtdq2pd cvtdq2ps cvtpd2dq cvtpd2pi cvtpd2ps cvtpi2pd cvtps2dq
    cvtps2pd cvtsd2si cvtsd2ss cvtsi2sd cvtss2sd cvttpd2dq cvttpd2pi cvttps2dq cvttsd2si divpd divsd lfence
    maskmovdqu maxpd maxsd mfence minpd minsd movapd movdq2q movdqa movdqu movhpd movlpd movmskpd movntdq movnti
    movntpd movq2dq movupd mulpd mulsd orpd paddq pmuludq pshufd pshufhw pshuflw pslldq psrldq psubq punpckhqdq
    punpcklqdq shufpd sqrtpd sqrtsd subpd subsd ucomisd unpckhpd unpcklpd xorpd
""".split()

MMX_AND_SSE: Final = frozenset(_MMX + _SSE)
"""Those of them that may name an MMX register."""
_PREDICATES: Final = "eq lt le unord neq nlt nle ord".split()

INNOCUOUS: Final = frozenset(
    _INTEGER
    + _X87
    + _MMX
    + _SSE
    + _SSE2
    + [f"cmov{condition}" for condition in _CONDITIONS]
    + [f"{name}{size}" for name in ("cmps", "lods", "movs", "scas", "stos") for size in _SIZES]
    + [f"cmp{predicate}{kind}" for predicate in ["", *_PREDICATES] for kind in ("ps", "ss", "pd", "sd")]
)
"""Mnemonics without REP, REPE, REPNE or LOCK in front."""
X87: Final = frozenset([*_X87, "wait"])
SIMD: Final = INNOCUOUS.difference(_INTEGER, _MMX, X87)
