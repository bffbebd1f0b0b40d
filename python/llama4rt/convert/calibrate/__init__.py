"""Quantising with eyes: which errors of weights matter is learnt from the inputs that a text makes them multiply."""
