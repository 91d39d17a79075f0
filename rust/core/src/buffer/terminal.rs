//! Next observations that a ring does not hold itself.
//!
//! A ring that keeps every observation once finds the next observation of a transition in the row
//! after it. Where an episode ended, the first observation of another one is there, and what was
//! seen last is kept here until its transition is overwritten.

use std::collections::HashMap;

use thiserror::Error;

use super::ring::Ring;

/// Numbers that are compared and kept bit by bit.
pub trait Bits: Copy {
    /// Whether all bits are the same: NaN is NaN, and -0 is not 0.
    fn same(self, other: Self) -> bool;
    /// Appends the bytes, as they lie in memory.
    fn push(self, bytes: &mut Vec<u8>);
}

impl Bits for u8 {
    fn same(self, other: Self) -> bool {
        self == other
    }

    fn push(self, bytes: &mut Vec<u8>) {
        bytes.push(self);
    }
}

impl Bits for f32 {
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits()
    }

    fn push(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_ne_bytes());
    }
}

/// Blocks whose lengths do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{what} holds {got} numbers, expected {expected}")]
pub struct BadBlock {
    /// Which one.
    pub what: &'static str,
    /// Its length.
    pub got: usize,
    /// The right length.
    pub expected: usize,
}

fn expect(what: &'static str, got: usize, expected: usize) -> Result<(), BadBlock> {
    if got == expected {
        return Ok(());
    }
    Err(BadBlock {
        what,
        got,
        expected,
    })
}

/// Observations by the index `row * n_envs + env` of the transition that led to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminalObs {
    kept: HashMap<usize, Box<[u8]>>,
}

impl TerminalObs {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// To be called before `seen`, the observations of `n_envs` environments, is written at the
    /// cursor of `column`. What lies there followed the newest transition: it is kept for each
    /// environment that did not go on from it. What was kept for the row at the cursor is dropped.
    ///
    /// # Errors
    /// [`BadBlock`]; nothing has changed then.
    pub fn before_write<T: Bits>(
        &mut self,
        ring: &Ring,
        column: &[T],
        seen: &[T],
        n_envs: usize,
    ) -> Result<(), BadBlock> {
        expect(
            "the observation column",
            column.len(),
            ring.capacity().saturating_mul(seen.len()),
        )?;
        expect(
            "the observations",
            seen.len(),
            seen.len().checked_next_multiple_of(n_envs).unwrap_or(0),
        )?;
        if seen.is_empty() {
            return Ok(());
        }
        let (row, width) = (ring.pos(), seen.len() / n_envs);
        if let Some(kept) = self.kept.values().next() {
            expect("an observation", width * size_of::<T>(), kept.len())?;
        }
        if !self.kept.is_empty() {
            for env in 0..n_envs {
                self.kept.remove(&(row * n_envs + env));
            }
        }
        let Some(newest) = ring.newest().filter(|&newest| newest != row) else {
            return Ok(());
        };
        let there = column[row * seen.len()..].chunks_exact(width);
        for (env, (old, new)) in there.zip(seen.chunks_exact(width)).enumerate() {
            if !old.iter().zip(new).all(|(&old, &new)| old.same(new)) {
                let mut bytes = Vec::with_capacity(size_of_val(old));
                old.iter().for_each(|&number| number.push(&mut bytes));
                self.kept.insert(newest * n_envs + env, bytes.into());
            }
        }
        Ok(())
    }

    /// Puts what is kept in its place among the gathered next observations of `transitions`.
    ///
    /// # Errors
    /// [`BadBlock`] if `gathered` has not as many rows, or rows of another size. Nothing is written then.
    pub fn patch(&self, transitions: &[usize], gathered: &mut [u8]) -> Result<(), BadBlock> {
        let Some(width) = self.kept.values().next().map(|bytes| bytes.len()) else {
            return Ok(());
        };
        let expected = transitions.len() * width;
        expect("the gathered observations", gathered.len(), expected)?;
        for (transition, row) in transitions.iter().zip(gathered.chunks_exact_mut(width)) {
            if let Some(bytes) = self.kept.get(transition) {
                row.copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Puts the floats that are kept for `transition` into `row`, if any are.
    pub fn copy_to(&self, transition: usize, row: &mut [f32]) {
        let Some(bytes) = (!self.kept.is_empty())
            .then(|| self.kept.get(&transition))
            .flatten()
        else {
            return;
        };
        let (numbers, _) = bytes.as_chunks::<4>();
        for (to, &from) in row.iter_mut().zip(numbers) {
            *to = f32::from_ne_bytes(from);
        }
    }

    /// Everything, by rising transition: their indices and the bytes of their observations.
    #[must_use]
    pub fn export(&self) -> (Vec<usize>, Vec<u8>) {
        let mut transitions: Vec<usize> = self.kept.keys().copied().collect();
        transitions.sort_unstable();
        let bytes = transitions
            .iter()
            .flat_map(|transition| self.kept[transition].iter().copied())
            .collect();
        (transitions, bytes)
    }

    /// What [`export`](Self::export) gave.
    ///
    /// # Errors
    /// [`BadBlock`] if the bytes are not as many observations of the same size.
    pub fn import(transitions: &[usize], bytes: &[u8]) -> Result<Self, BadBlock> {
        let width = bytes.len().checked_div(transitions.len()).unwrap_or(0);
        expect(
            "the block of observations",
            bytes.len(),
            width * transitions.len(),
        )?;
        let rows = transitions.iter().enumerate();
        Ok(Self {
            kept: rows
                .map(|(i, &at)| (at, bytes[i * width..(i + 1) * width].into()))
                .collect(),
        })
    }
}
