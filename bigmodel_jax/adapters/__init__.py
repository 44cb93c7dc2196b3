"""Adapters: a few trained parameters beside the frozen weights of a model."""
