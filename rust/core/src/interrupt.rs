//! Long work that stops when somebody asks for it.

use std::fmt::{Debug, Formatter};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How often is asked. With Python each question waits for its lock, which may take 5 ms.
const EVERY: Duration = Duration::from_millis(100);

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Somebody wants the work to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Asks now and then whether to stop: about ten times a second, however short the work between two
/// calls of [`check`](Self::check) is.
pub struct Watch<'a> {
    ask: Option<&'a mut dyn FnMut() -> bool>,
    every: Duration,
    asked: Instant,
    looked: Instant,
    /// Calls from the last look at the clock to the next one, and those that are left of them.
    calls: u32,
    left: u32,
}

impl Debug for Watch<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<'a> Watch<'a> {
    /// Stops the work once `ask` returns true.
    pub fn new(ask: &'a mut dyn FnMut() -> bool) -> Self {
        Self::every(EVERY, ask)
    }

    /// The same with another time between two questions.
    pub fn every(every: Duration, ask: &'a mut dyn FnMut() -> bool) -> Self {
        let now = Instant::now();
        Self {
            ask: Some(ask),
            every,
            asked: now,
            looked: now,
            calls: 1,
            left: 1,
        }
    }

    /// Never stops anything.
    #[must_use]
    pub fn never() -> Watch<'static> {
        let now = Instant::now();
        Watch {
            ask: None,
            every: EVERY,
            asked: now,
            looked: now,
            calls: u32::MAX,
            left: u32::MAX,
        }
    }

    /// To be called between two parts of the work.
    ///
    /// # Errors
    /// [`Interrupted`] if the work is to stop.
    #[inline]
    pub fn check(&mut self) -> Result<(), Interrupted> {
        self.left -= 1;
        if self.left > 0 {
            return Ok(());
        }
        self.look()
    }

    #[cold]
    fn look(&mut self) -> Result<(), Interrupted> {
        let now = Instant::now();
        // As many calls as take `LOOK`, going by the last ones, and not many more than those.
        let took = (now - self.looked).as_nanos().max(1);
        let wanted = u128::from(self.calls) * LOOK.min(self.every).as_nanos() / took;
        let most = self.calls.saturating_mul(2);
        self.calls = u32::try_from(wanted).unwrap_or(most).clamp(1, most);
        (self.left, self.looked) = (self.calls, now);
        let Some(ask) = &mut self.ask else {
            return Ok(());
        };
        if now - self.asked >= self.every {
            self.asked = now;
            if ask() {
                return Err(Interrupted);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_asks_if_no_time_may_pass() {
        let mut asked = 0;
        let mut ask = || {
            asked += 1;
            asked == 5
        };
        let mut watch = Watch::every(Duration::ZERO, &mut ask);
        let passed = (0..9).take_while(|_| watch.check().is_ok()).count();
        assert_eq!((passed, asked), (4, 5));
    }

    #[test]
    fn short_work_asks_seldom_and_long_work_each_time() {
        let mut asked = 0;
        let mut ask = || {
            asked += 1;
            false
        };
        let mut watch = Watch::every(Duration::from_secs(3600), &mut ask);
        (0..100_000).for_each(|_| watch.check().unwrap());
        let mut watch = Watch::every(Duration::from_millis(1), &mut ask);
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(12));
            watch.check().unwrap();
        }
        assert_eq!(asked, 4);
    }

    #[test]
    fn nobody_stops_what_is_never_to_stop() {
        let mut watch = Watch::never();
        assert!((0..1000).all(|_| watch.check().is_ok()));
    }
}
