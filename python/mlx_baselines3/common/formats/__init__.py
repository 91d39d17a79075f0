"""File formats: bytes and values, independent of models."""
