"""Networks and arrays: modules with SB3's parameter names, optimizers, sums."""
