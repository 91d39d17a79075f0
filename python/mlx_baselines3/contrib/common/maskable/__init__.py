"""Policies whose actions are masked: what MaskablePPO consists of."""
