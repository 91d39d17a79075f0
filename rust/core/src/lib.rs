//! Everything `mlx_baselines3` does once per environment step, in plain Rust.
//!
//! This crate knows nothing of Python: `cargo test` and `cargo bench` run on a
//! machine without an interpreter. The `mlx-baselines3-python` crate wraps it.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod actor;
pub mod advantage;
pub mod buffer;
pub mod collect;
pub mod env;
pub mod evaluate;
pub mod interrupt;
pub mod learn;
pub mod memory;
pub mod nn;
pub mod rng;
pub mod shuffle;
pub mod threads;
pub mod update;
pub mod vec_env;
