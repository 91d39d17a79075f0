"""Kernels of this package's own for NVIDIA GPUs, and how the host's numbers get there."""
