"""Glassvisor: a virtual machine monitor whose physical CPU is the Unicorn engine."""
