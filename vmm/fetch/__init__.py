"""Guests from Debian, for `vmm images` and `make images`: packages by a private apt, images made of them in a cache."""
