"""The machine below: the Unicorn engine as a physical CPU, and one mmap as its RAM."""
