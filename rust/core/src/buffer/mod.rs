//! Storage for transitions: where each column lies, how rows are moved, where the cursor is.
//!
//! Memory itself belongs to the caller: a `Vec` in tests and benches, a block shared with NumPy
//! behind the Python bindings. Rows are moved as bytes, so one function serves every dtype.

pub mod layout;
pub mod ring;
pub mod rows;
pub mod terminal;
