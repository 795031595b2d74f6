"""The laboratory: small guests that show, instruction by instruction, what each engine makes of them."""
