"""Policies with memory: what RecurrentPPO consists of."""
