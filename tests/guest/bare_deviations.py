"""Where the bare processor, which is Unicorn, does something else than the SDM says, by the tests that show it.

Each entry: a test, a pattern for the ids of its cases, and what the engine does instead of what the SDM section says.
The tests say what is right; on the engine `bare` these cases must fail. `docs/limits.md` has the list for users.
"""

from typing import NamedTuple


class Deviation(NamedTuple):
    """`cases` matches the ids of the cases in full, without the engine's name."""

    test: str
    cases: str
    what: str


_MODE = r"(real|v86_iopl\d|p(16|32)_(based_)?ring\d(_iopl\d)?)"
_NEWER = "Vol. 2A, instruction pages: the engine has instructions that CPUID does not show, and lax encodings"
_LOCK = 'Vol. 2A, "LOCK": it is ignored in front of an instruction that does not take it'
_CONTROL = 'Vol. 3A, "Control Registers": reserved bits and combinations of CR0 and CR4 are accepted'
_CLFLUSH = 'Vol. 2A, "CLFLUSH": it does nothing, so nothing about its operand can fault'
_PDPTE = 'Vol. 3A, "PDPTE Registers": read at each use, not at loads of CR3, and not checked then'

DEVIATIONS = [
    Deviation("test_selector_and_status_word_stores_show_the_guests", rf"{_MODE}-smsw-4-\d",
              'Vol. 2B, "SMSW": a 32-bit register keeps its upper half, which is undefined'),
    Deviation("test_pushf_shows_the_guests_flags", r"v86_iopl3-4-\d+", 'Vol. 2B, "PUSHF/PUSHFD": VM shows in the image'),
    Deviation("test_an_opcode_that_this_processor_lacks_is_undefined",
              rf"({_MODE}-(0f05|0f3800c1|0f381cc1|0f38f000|0f38f0c0|0f3a0fc100|0fc7f0|0fc7f8|660f3810c1|660f3840c1"
              r"|660f3a0ac100|660f7cc1|660f7dc1|660fd0c1|8fc8|8fd0|8fe878a2c100|c6f800|c7f800000000|db08|dd08|df08"
              r"|f20f12c1|f20f38f0c0|f20f7cc1|f20fd0c1|f20ff000|f30f12c1|f30f16c1|f30fb8c0)"
              r"|real-0f07|p32_ring[03]-c5f858c1|(p32_ring3|p16_ring3|v86_iopl3)-0f01d1)", _NEWER),
    Deviation("test_odd_encodings_that_exist_are_executed", "test_f6_1|test_f7_1|rep_bsr_is_bsr|prefetch_of_a_register|cmpps_with_reserved_bits",
              'Vol. 2D, "Opcode Map": TEST has no second encoding, REP BSR is LZCNT, 0F18h has no registers'),
    Deviation("test_cmpxchg8b_changes_zf_alone", "", 'Vol. 2A, "CMPXCHG8B": it also changes the other flags'),
    Deviation("test_lock_is_undefined_everywhere_else",
              r"p32_ring[03]-(0f00c0|0f0101|0f0130|0f01e0|0f02c0|0f06|0f20c0|0f22c0|0fa300|0faf00|0fbe00|50|58|7400|8400"
              r"|87c0|8900|8a00|8b00|8c00|8d00|8e00|8ed8|9c|9d|a140000200|a340000200|a4|aa|ac|c3|c60001|cb|cf|d120|d9d0"
              r"|e800000000|ea000000000800|ebfe|fa|fb|ff10|ff20)|p32_ring3-(f4|0f30)", _LOCK),
    Deviation("test_no_other_prefix_makes_lock_right", "(f0f3fb|f00f1f00|f0f3a4|f0f28900|f0f3c3)-.*", _LOCK),
    Deviation("test_a_misaligned_sse_access_is_gp", _MODE,
              'Vol. 3A, "Interrupt 13 - General Protection Exception (#GP)": SSE operands may be misaligned'),
    Deviation("test_clflush_of_a_page_that_is_not_there_is_a_page_fault", _MODE, _CLFLUSH),
    Deviation("test_clflush_sets_the_accessed_bit_and_nothing_else", _MODE, _CLFLUSH),
    Deviation("test_bit_7_of_a_page_table_entry_is_reserved_without_pat", _MODE,
              'Vol. 3A, "32-Bit Paging": bit 7 of an entry for a page is ignored'),
    Deviation("test_tf_raises_db_after_each_instruction", rf"pause-{_MODE}",
              'Vol. 3B, "Single-Step Exception Condition": PAUSE raises no trap'),
    Deviation("test_rf_set_by_iretd_lives_for_one_instruction", "",
              'Vol. 3B, "Instruction-Breakpoint Exception Condition": RF lives on to the end of some later block'),
    Deviation("test_handlers_that_fault_before_their_first_instruction_do_not_keep_the_vmm", "",
              'Vol. 3A, "Limit Checking": code runs past its limit'),
    Deviation("test_a_contributory_fault_without_its_gate_is_a_double_fault_and_without_that_a_shutdown",
              "p(16|32)_ring0", _CONTROL),
    Deviation("test_control_registers_that_do_not_exist_are_undefined",
              r"(v86_iopl\d|p(16|32)_(based_)?ring[123](_iopl\d)?)-3[24]-\d",
              'Vol. 2B, "MOV - Move to/from Control Registers": #GP instead of #UD outside CPL 0'),
    Deviation("test_ltr_loads_a_free_tss_and_makes_it_busy", rf"0-fault1-{_MODE}",
              'Vol. 2A, "LTR": a null selector is accepted'),
    Deviation("test_mov_to_a_control_register", rf"{_MODE}-(cr4_top|cr4_umip|cr4_vme|nw_without_cd|reserved_bits_ignored)-.*",
              _CONTROL),
    Deviation("test_paging_without_protection_is_refused", _MODE, _CONTROL),
    Deviation("test_mov_cr3_checks_the_pdptes", r"\d+-13", _PDPTE),
    Deviation("test_a_pdpte_changed_in_memory_counts_at_the_next_load_of_cr3", "", _PDPTE),
    Deviation("test_code_that_was_written_through_an_nx_address_runs_as_written", r"ring\d",
              'Vol. 3A, "Self-Modifying Code": a store through an address that is NX is not looked at'),
]  # fmt: skip

TRANSLATORS_OWN = {"test_a_system_call_that_was_done_before_is_the_same_as_ever"}
"""Tests of what an engine that translates keeps for itself."""
