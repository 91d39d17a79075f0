//! NumPy's random generators, bit for bit.
