"""Where engines that run guests in place do something else than the SDM says: see `bare_deviations.py`.

In guest mode the guest has the same processor, but for what leaves: that the VMM does as it should be.
"""

import re
from typing import Final

from bare_deviations import DEVIATIONS, Deviation
from techniques import Technique

_LOCK: Final = "test_lock_is_undefined_everywhere_else"
_LACKING: Final = "test_an_opcode_that_this_processor_lacks_is_undefined"
_EMULATED: Final = {
    "test_a_contributory_fault_without_its_gate_is_a_double_fault_and_without_that_a_shutdown": ".*",
    "test_cmpxchg8b_changes_zf_alone": ".*",
    "test_ltr_loads_a_free_tss_and_makes_it_busy": ".*",
    "test_mov_to_a_control_register": ".*",
    "test_paging_without_protection_is_refused": ".*",
    "test_pushf_shows_the_guests_flags": ".*",
    _LACKING: ".*-0f05",
    _LOCK: "p32_ring0-(0f22c0|0f0130|0f06|cb|ea000000000800)|p32_ring3-(cb|cf|ea000000000800)",
}
"""What leaves under both kinds of tables, and is right therefore: tests and their cases."""
_SHADOWED: Final = _EMULATED | {
    "test_code_that_was_written_through_an_nx_address_runs_as_written": ".*",
    "test_a_pdpte_changed_in_memory_counts_at_the_next_load_of_cr3": ".*",
    "test_bit_7_of_a_page_table_entry_is_reserved_without_pat": ".*",
    "test_mov_cr3_checks_the_pdptes": ".*",
    "test_selector_and_status_word_stores_show_the_guests": ".*",
    _LOCK: "p32_ring0-(0f01e0|0f0130|0f06|0f20c0|0f22c0|cb|ea000000000800)|p32_ring3-(0f01e0|cb|cf|ea000000000800)",
}
"""What leaves under shadow tables."""
_CMPXCHG8B: Final = 'Vol. 2A, "CMPXCHG8B": it also changes the other flags, unless its page had to be mapped first'
_IN_GUEST_MODE: Final = [
    Deviation("test_a_page_that_only_the_shadow_misses_changes_no_flag",
              "(add_with_carry|add|sub_with_borrow|stc_dec|shl|mul)-p32_ring[03]", _CMPXCHG8B),
    Deviation(_LOCK, "p32_ring[03]-ce", 'Vol. 2A, "LOCK": INTO leaves only when OF is set'),
    *DEVIATIONS,
]  # fmt: skip

_KNOWN: Final = {
    Technique.TRANSLATE: ([], {}),
    Technique.TRAP: ([], {}),
    Technique.BARE: (DEVIATIONS, {}),
    Technique.SVM: (_IN_GUEST_MODE, _SHADOWED),
    Technique.NPT: (_IN_GUEST_MODE, _EMULATED),
}  # fmt: skip
"""Deviations, and the exceptions from them."""


def deviation_of(technique: Technique, test: str, case: str) -> str | None:
    """What a technique does instead, or None where it does what the SDM says."""
    deviations, right = _KNOWN[technique]
    if test in right and re.fullmatch(right[test], case):
        return None
    return next((known.what for known in deviations if known.test == test and re.fullmatch(known.cases, case)), None)
