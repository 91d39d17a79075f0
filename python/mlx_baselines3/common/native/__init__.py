"""Policies and rollouts in Rust."""
