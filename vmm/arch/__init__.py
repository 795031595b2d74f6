"""x86 facts, each cited from the Intel SDM: no behaviour here."""
