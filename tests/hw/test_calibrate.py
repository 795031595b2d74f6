"""Calibration: what was measured passes, anything else is refused by name."""

import pytest
from cpu_rig import DATA, EXIT, Rig

from vmm.errors import EngineMismatch
from vmm.hw import calibrate
from vmm.hw import state as hw

WORDS = [name for name in dir(hw) if name.startswith(("Q_", "D_")) and name not in ("Q_REGS", "D_HFLAGS2")]
BYTES = ["FPU_TOP", "FPU_STATUS", "FPU_CONTROL", "FPU_TAGS", "FPU_REGISTERS", "FPU_OPCODE", "FPU_IP", "FPU_DP"]


def test_the_supported_engine_passes() -> None:
    calibrate.check_layout()


@pytest.mark.parametrize("name", [*WORDS, "Q_REGS"])
def test_a_field_one_word_off_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw, name, getattr(hw, name) + 1)
    with pytest.raises(EngineMismatch, match=r"^unicorn 2\.1\.4: .+"):
        calibrate.check_layout()


@pytest.mark.parametrize("name", [*BYTES, "MXCSR", "XMM_REGISTERS", "XMM_STRIDE"])
def test_an_fpu_field_off_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw, name, getattr(hw, name) + 16)
    with pytest.raises(EngineMismatch, match=r"^unicorn 2\.1\.4: .+"):
        calibrate.check_layout()


def test_a_state_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw, "STATE_SIZE", hw.STATE_SIZE + 40)
    with pytest.raises(EngineMismatch, match="size of the saved state"):
        calibrate.check_layout()


def test_the_processor_is_calibrated_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw, "Q_EFER", hw.Q_EFER + 1)
    with pytest.raises(EngineMismatch, match="EFER"):
        Rig()


FPU_WORK = """
    fninit; fldpi; fld1; fldl2e; fchs; fstp dword ptr [{data} + 8]; pcmpeqd mm3, mm3; paddd mm4, mm3
    mov dword ptr [{data}], 0x5f80; ldmxcsr dword ptr [{data}]
    mov dword ptr [{data} + 4], 0x0e7f; fldcw word ptr [{data} + 4]
    mov eax, 77; cvtsi2ss xmm5, eax; sqrtps xmm6, xmm5; divss xmm6, xmm5; pshufd xmm7, xmm6, 0x1b
""".format(data=hex(DATA))
FPU_OTHER = "fninit; fldz; fldz; fdivp; pxor mm3, mm3; emms; xorps xmm5, xmm5; xorps xmm6, xmm6; xorps xmm7, xmm7"
IMAGE = f"fxsave [{DATA + 0x100:#x}]; fnsave [{DATA + 0x400:#x}]; int {EXIT:#x}"


def _image(rig: Rig, code: str) -> bytes:
    """Run code, then show the FPU as FXSAVE and FNSAVE show it (FNSAVE resets it too)."""
    rig.enter()
    rig.cpu.forget_all_code()
    rig.run(f"{code}; {IMAGE}")
    return bytes(rig.memory.view[DATA + 0x100 : DATA + 0x300]) + bytes(rig.memory.view[DATA + 0x400 : DATA + 0x46C])


def test_the_fpu_ranges_are_the_whole_fpu(rig: Rig) -> None:
    rig.enter()
    rig.run(f"{FPU_WORK}; int {EXIT:#x}")
    saved = [bytes(rig.cpu.state.buffer[start:end]) for start, end in hw.FPU_RANGES]
    expected = _image(rig, FPU_WORK)
    assert _image(rig, FPU_OTHER) != expected
    rig.enter()
    rig.cpu.forget_all_code()
    for (start, end), data in zip(hw.FPU_RANGES, saved, strict=True):
        rig.cpu.state.buffer[start:end] = data
    rig.run(IMAGE)
    restored = bytes(rig.memory.view[DATA + 0x100 : DATA + 0x300]) + bytes(rig.memory.view[DATA + 0x400 : DATA + 0x46C])
    assert _without_instruction_pointers(restored) == _without_instruction_pointers(expected)


def _without_instruction_pointers(image: bytes) -> bytes:
    """FXSAVE bytes 8-23 and FNSAVE bytes 12-27 name the last x87 instruction, which the test moves about."""
    return image[:8] + image[24 : 512 + 12] + image[512 + 28 :]
