//! The environments and the list of their ids.
