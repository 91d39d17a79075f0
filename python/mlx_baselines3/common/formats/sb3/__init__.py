"""Reading SB3's files without executing them, and writing them."""
