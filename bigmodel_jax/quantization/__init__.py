"""Weights and products of few bits: how a model's matrices are rounded, stored, and multiplied."""
