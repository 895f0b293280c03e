"""Faults on purpose: processes killed and stopped, clocks that jump, power that fails."""
