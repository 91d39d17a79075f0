//! Batches out of the columns of a replay buffer: the draws of NumPy's global generator, and copies of
//! what the columns hold of the transitions that were drawn.

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::{RowError, gather, gather_ended};
use mlx_baselines3_core::buffer::terminal::TerminalObs as Kept;
use pyo3::prelude::*;

use super::plain::Plain;
use super::random::{Bounds, Numbers};
use super::replay::LARGE;
use crate::error::py_err;
use crate::terminal::TerminalObs;

/// What batches are taken from, columns `(rows, n_envs, ...)`, and how many.
pub(crate) struct Sampling<'py> {
    pub(crate) ring: Ring,
    pub(crate) n_envs: usize,
    /// What was there at a step.
    pub(crate) now: Vec<Bound<'py, PyAny>>,
    /// What followed it.
    pub(crate) next: Vec<Bound<'py, PyAny>>,
    /// If given, what followed a step is in the row after it, or kept here.
    pub(crate) terminal: Option<Bound<'py, TerminalObs>>,
    pub(crate) dones: Bound<'py, PyAny>,
    pub(crate) timeouts: Bound<'py, PyAny>,
    pub(crate) rewards: Bound<'py, PyAny>,
    pub(crate) n_batches: usize,
    pub(crate) batch_size: usize,
    /// Whether one batch follows the other in one axis.
    pub(crate) flat: bool,
}

/// What was taken, in the order of the columns.
pub(crate) struct Taken<'py> {
    pub(crate) now: Vec<Bound<'py, PyAny>>,
    pub(crate) next: Vec<Bound<'py, PyAny>>,
    pub(crate) ended: Bound<'py, PyAny>,
    pub(crate) rewards: Bound<'py, PyAny>,
}

/// Which transitions may be drawn.
struct Bag {
    rows: Bounds,
    /// The row that 0 stands for.
    first: usize,
    envs: Bounds,
}

impl<'py> Sampling<'py> {
    /// Draws the batches and takes them from the columns. `None` if a column is not ready to be
    /// copied from, or the batches are large or empty; nothing was drawn then.
    pub(crate) fn sample(&self, numbers: &mut Numbers<'_>) -> Option<PyResult<Taken<'py>>> {
        let (now, next) = (self.ready(&self.now)?, self.ready(&self.next)?);
        let (dones, timeouts) = (self.flags(&self.dones)?, self.flags(&self.timeouts)?);
        let rewards = self.flags(&self.rewards)?;
        let terminal = match &self.terminal {
            None => None,
            Some(terminal) => Some(terminal.try_borrow().ok()?),
        };
        // No Python code runs from here on.
        let places = self.draw(&self.bag()?, numbers);
        let take = || {
            // SAFETY: nobody writes to them while the GIL is held.
            let truncated = unsafe { timeouts.bytes() };
            Ok(Taken {
                now: self.entries(&now, &places)?,
                next: match &terminal {
                    None => self.entries(&next, &places)?,
                    Some(kept) => self.following(&next, &places, &kept.core)?,
                },
                ended: self.made(&dones, &[1], |from, to| {
                    gather_ended(from, truncated, to, &places)
                })?,
                rewards: self.taken(&rewards, &[1], &places)?,
            })
        };
        Some(take())
    }

    fn ready<'a>(&self, columns: &'a [Bound<'_, PyAny>]) -> Option<Vec<Plain<'a>>> {
        columns.iter().map(|array| self.column(array)).collect()
    }

    fn flags<'a>(&self, array: &'a Bound<'_, PyAny>) -> Option<Plain<'a>> {
        let column = self.column(array)?;
        (column.is_f32() && column.shape().len() == 2).then_some(column)
    }

    fn column<'a>(&self, array: &'a Bound<'_, PyAny>) -> Option<Plain<'a>> {
        let column = Plain::of(array)?;
        let total = self.n_batches.checked_mul(self.batch_size)?;
        let bytes = total.checked_mul(self.width(&column))?;
        let fits = column.begins_with([self.ring.capacity(), self.n_envs]);
        (fits && (1..=LARGE).contains(&bytes)).then_some(column)
    }

    /// Bytes of one transition.
    fn width(&self, column: &Plain<'_>) -> usize {
        let transitions = self.ring.capacity() * self.n_envs;
        column.size().checked_div(transitions).unwrap_or(0)
    }

    fn bag(&self) -> Option<Bag> {
        // The row at the cursor holds the newest next observation, which no transition was seen in.
        let spared = self.terminal.is_some() && self.ring.is_full();
        Some(Bag {
            rows: Bounds::new(i64::from(spared), self.ring.len().try_into().ok()?)?,
            first: if spared { self.ring.pos() } else { 0 },
            envs: Bounds::new(0, self.n_envs.try_into().ok()?)?,
        })
    }

    /// The transitions `row * n_envs + env` of one batch after the other: of each batch first all
    /// rows are drawn, then all environments.
    fn draw(&self, bag: &Bag, numbers: &mut Numbers<'_>) -> Vec<usize> {
        let capacity = self.ring.capacity();
        let mut places = Vec::with_capacity(self.n_batches * self.batch_size);
        for _ in 0..self.n_batches {
            let start = places.len();
            places.extend((0..self.batch_size).map(|_| {
                let row = bag.first + numbers.draw(bag.rows).cast_unsigned() as usize;
                (row - if row < capacity { 0 } else { capacity }) * self.n_envs
            }));
            for place in &mut places[start..] {
                *place += numbers.draw(bag.envs).cast_unsigned() as usize;
            }
        }
        places
    }

    fn entries(&self, columns: &[Plain<'_>], places: &[usize]) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let taken = |column: &Plain<'_>| self.taken(column, &column.shape()[2..], places);
        columns.iter().map(taken).collect()
    }

    /// What followed, from columns that have it one row later, but for what was kept elsewhere.
    fn following(
        &self,
        columns: &[Plain<'_>],
        places: &[usize],
        kept: &Kept,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let end = self.ring.capacity() * self.n_envs;
        let later = |place: &usize| {
            let later = place + self.n_envs;
            later - if later < end { 0 } else { end }
        };
        let next = self.entries(columns, &places.iter().map(later).collect::<Vec<_>>())?;
        for array in &next {
            // SAFETY: the array is new, and nobody else uses it while the GIL is held.
            let bytes = unsafe { Plain::of(array).and_then(|array| array.bytes_mut()) };
            kept.patch(places, bytes.unwrap_or(&mut []))
                .map_err(py_err)?;
        }
        Ok(next)
    }

    fn taken(
        &self,
        column: &Plain<'_>,
        entry: &[isize],
        places: &[usize],
    ) -> PyResult<Bound<'py, PyAny>> {
        let width = self.width(column);
        self.made(column, entry, |from, to| gather(from, to, width, places))
    }

    /// A new array of the numbers of a column, which `work` copies from there.
    fn made(
        &self,
        column: &Plain<'_>,
        entry: &[isize],
        work: impl FnOnce(&[u8], &mut [u8]) -> Result<(), RowError>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (batches, size) = (self.n_batches.cast_signed(), self.batch_size.cast_signed());
        let shape = match self.flat {
            true => [&[batches * size], entry].concat(),
            false => [&[batches, size], entry].concat(),
        };
        let array = column.fresh(self.dones.py(), shape)?;
        // SAFETY: the array is new, and nobody else uses the two while the GIL is held.
        let (from, to) = unsafe {
            let to = Plain::of(&array).and_then(|target| target.bytes_mut());
            (column.bytes(), to.unwrap_or(&mut []))
        };
        work(from, to).map_err(py_err)?;
        Ok(array)
    }
}
