"""Distillation: teachers, and the soft labels that a student learns from."""
