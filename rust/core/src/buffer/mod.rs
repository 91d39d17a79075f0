//! Storage for transitions.
