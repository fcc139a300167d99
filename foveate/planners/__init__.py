"""Latency table and sensitivities in, schedules out. Pure: numpy and pydantic, no torch."""
