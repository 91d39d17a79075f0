"""Models, runs and buffers in files."""
