"""The x87, MMX and SSE registers between the engine's state and the image of FXSAVE.

The image has the x87 registers from the top of their stack on, the state has them by number; a tag is one bit for a
register that is in use, or a byte that is 1 for an empty one.

Source: SDM Vol. 2A, "FXSAVE - Save x87 FPU, MMX Technology, and SSE State".
"""

from typing import Final

from vmm.hw import state as hw

SIZE: Final = 512
_CONTROL, _STATUS, _TAGS = 0, 2, 4
_MXCSR: Final = 24
_REGISTERS, _XMM, _STEP = 32, 160, 16
_COUNT: Final = 8
_TOP_SHIFT: Final = 11
_TOP: Final = 7 << _TOP_SHIFT
_X87_SIZE: Final = 10


def to_image(state: memoryview) -> bytes:
    """The engine's state as 512 bytes; the last instruction's addresses are 0."""
    image = bytearray(SIZE)
    top = int.from_bytes(state[hw.FPU_TOP : hw.FPU_TOP + 4], "little") & _COUNT - 1
    status = int.from_bytes(state[hw.FPU_STATUS : hw.FPU_STATUS + 2], "little") & ~_TOP | top << _TOP_SHIFT
    image[_CONTROL : _CONTROL + 2] = state[hw.FPU_CONTROL : hw.FPU_CONTROL + 2]
    image[_STATUS : _STATUS + 2] = status.to_bytes(2, "little")
    image[_TAGS] = sum(1 << number for number in range(_COUNT) if not state[hw.FPU_TAGS + number])
    image[_MXCSR : _MXCSR + 4] = state[hw.MXCSR : hw.MXCSR + 4]
    for number in range(_COUNT):
        source = hw.FPU_REGISTERS + _STEP * (top + number & _COUNT - 1)
        at = _REGISTERS + _STEP * number
        image[at : at + _X87_SIZE] = state[source : source + _X87_SIZE]
        source, at = hw.XMM_REGISTERS + hw.XMM_STRIDE * number, _XMM + _STEP * number
        image[at : at + _STEP] = state[source : source + _STEP]
    return bytes(image)


def from_image(image: bytes, state: memoryview) -> None:
    """The other way."""
    status = int.from_bytes(image[_STATUS : _STATUS + 2], "little")
    top = (status & _TOP) >> _TOP_SHIFT
    state[hw.FPU_TOP : hw.FPU_TOP + 4] = top.to_bytes(4, "little")
    state[hw.FPU_STATUS : hw.FPU_STATUS + 2] = (status & ~_TOP).to_bytes(2, "little")
    state[hw.FPU_CONTROL : hw.FPU_CONTROL + 2] = image[_CONTROL : _CONTROL + 2]
    state[hw.MXCSR : hw.MXCSR + 4] = image[_MXCSR : _MXCSR + 4]
    for number in range(_COUNT):
        state[hw.FPU_TAGS + number] = not image[_TAGS] >> number & 1
        target = hw.FPU_REGISTERS + _STEP * (top + number & _COUNT - 1)
        at = _REGISTERS + _STEP * number
        state[target : target + _X87_SIZE] = image[at : at + _X87_SIZE]
        target, at = hw.XMM_REGISTERS + hw.XMM_STRIDE * number, _XMM + _STEP * number
        state[target : target + _STEP] = image[at : at + _STEP]
