//! Generalised advantage estimation on slices.
