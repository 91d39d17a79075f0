//! A ring that keeps every observation once gives the next observations of one that keeps all twice.

use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::gather;
use mlx_baselines3_core::buffer::terminal::TerminalObs;
use proptest::prelude::*;

const WIDTH: usize = 3;

/// Both rings, written by the same steps.
struct Rings {
    n_envs: usize,
    ring: Ring,
    compact: Vec<u8>,
    terminal: TerminalObs,
    next: Vec<u8>,
    /// The number of the episode that each transition belongs to.
    episode: Vec<usize>,
}

impl Rings {
    fn new(capacity: usize, n_envs: usize) -> Self {
        Self {
            n_envs,
            ring: Ring::new(capacity, 0, false).unwrap(),
            compact: vec![0; capacity * n_envs * WIDTH],
            terminal: TerminalObs::default(),
            next: vec![0; capacity * n_envs * WIDTH],
            episode: vec![0; capacity * n_envs],
        }
    }

    fn write(&mut self, seen: &[u8], next: &[u8], episodes: &[usize]) {
        let (row, len) = (self.ring.pos(), self.n_envs * WIDTH);
        self.terminal
            .before_write(&self.ring, &self.compact, seen, self.n_envs)
            .unwrap();
        let after = self.ring.after(row, 1);
        self.compact[row * len..][..len].copy_from_slice(seen);
        self.compact[after * len..][..len].copy_from_slice(next);
        self.next[row * len..][..len].copy_from_slice(next);
        self.episode[row * self.n_envs..][..self.n_envs].copy_from_slice(episodes);
        self.ring.advance();
    }

    /// The transitions that may be sampled from the compact ring.
    fn transitions(&self) -> Vec<usize> {
        let stale = self.ring.is_full().then_some(self.ring.pos());
        let rows = (0..self.ring.len()).filter(|&row| Some(row) != stale);
        rows.flat_map(|row| (0..self.n_envs).map(move |env| row * self.n_envs + env))
            .collect()
    }

    fn next_of(&self, transitions: &[usize]) -> Vec<u8> {
        let after: Vec<usize> = transitions
            .iter()
            .map(|&t| self.ring.after(t / self.n_envs, 1) * self.n_envs + t % self.n_envs)
            .collect();
        let mut gathered = vec![0; after.len() * WIDTH];
        gather(&self.compact, &mut gathered, WIDTH, &after).unwrap();
        self.terminal.patch(transitions, &mut gathered).unwrap();
        gathered
    }
}

/// Observations that no other step has: the environment's number, then the time.
fn observe(env: usize, time: usize) -> [u8; WIDTH] {
    [env as u8, time as u8, (time >> 8) as u8]
}

proptest! {
    #[test]
    fn next_observations_are_those_of_the_other_ring(
        capacity in 2_usize..12,
        n_envs in 1_usize..4,
        ends in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.3), 3), 0..40),
        forget_at in prop::option::of(0_usize..40),
    ) {
        let mut rings = Rings::new(capacity, n_envs);
        let (mut time, mut episodes) = (0, vec![0; n_envs]);
        let mut now: Vec<[u8; WIDTH]> = (0..n_envs).map(|env| observe(env, 0)).collect();
        for (step, ends) in ends.iter().enumerate() {
            if Some(step) == forget_at {
                rings = Rings::new(capacity, n_envs);
            }
            time += 1;
            let next: Vec<[u8; WIDTH]> = (0..n_envs).map(|env| observe(env, time)).collect();
            rings.write(now.as_flattened(), next.as_flattened(), &episodes);
            now = next;
            for env in (0..n_envs).filter(|&env| ends[env]) {
                time += 1;
                now[env] = observe(env, time);
                episodes[env] += 1;
            }
            let transitions = rings.transitions();
            let expected: Vec<u8> = transitions
                .iter()
                .flat_map(|&t| rings.next[t * WIDTH..][..WIDTH].iter().copied())
                .collect();
            prop_assert_eq!(rings.next_of(&transitions), expected);
            // Kept is what the next row does not hold, and nothing else.
            let newest = rings.ring.newest();
            let (kept, bytes) = rings.terminal.export();
            let apart = |t: &usize| {
                let next = (rings.ring.after(t / n_envs, 1)) * n_envs + t % n_envs;
                Some(t / n_envs) != newest && rings.episode[*t] != rings.episode[next]
            };
            let live: Vec<usize> = transitions.iter().copied().filter(apart).collect();
            prop_assert!(kept.iter().all(|&t| live.contains(&t) || t / n_envs == rings.ring.pos()));
            prop_assert!(live.iter().all(|t| kept.contains(t)));
            prop_assert_eq!(TerminalObs::import(&kept, &bytes).unwrap(), rings.terminal.clone());
        }
    }

    #[test]
    fn no_n_step_return_leaves_its_episode(
        capacity in 2_usize..12,
        ends in prop::collection::vec(prop::bool::weighted(0.3), 1..40),
        n_steps in 1_usize..5,
    ) {
        let mut rings = Rings::new(capacity, 1);
        let (mut now, mut time, mut episode) = (observe(0, 0), 0, 0);
        let mut last = vec![false; capacity];
        for &ends in &ends {
            time += 1;
            last[rings.ring.pos()] = ends;
            rings.write(&now, &observe(0, time), &[episode]);
            now = observe(0, time);
            if ends {
                (time, episode) = (time + 1, episode + 1);
                now = observe(0, time);
            }
        }
        for row in rings.transitions() {
            let span = rings.ring.span(row, n_steps, |row| last[row]).unwrap();
            let end = rings.ring.after(row, span - 1);
            prop_assert_eq!(rings.episode[end], rings.episode[row]);
            // The time of the observation that the return is continued from.
            let first = rings.compact[row * WIDTH + 1];
            prop_assert_eq!(rings.next_of(&[end])[1], first.wrapping_add(span as u8));
        }
    }
}

#[test]
fn bits_decide_and_not_numbers() {
    let ring = Ring::new(3, 1, false).unwrap();
    let column = [1.0, 0.0, f32::NAN, 0.0, 9.0, 9.0];
    let mut terminal = TerminalObs::default();
    terminal
        .before_write(&ring, &column, &[f32::NAN, -0.0], 2)
        .unwrap();
    // Transition 0 * 2 + 1: -0 follows where 0 lies. NaN went on as NaN.
    assert_eq!(terminal.export(), (vec![1], 0_f32.to_ne_bytes().to_vec()));
}

#[test]
fn blocks_that_do_not_fit_change_nothing() {
    let ring = Ring::new(3, 1, false).unwrap();
    let mut terminal = TerminalObs::import(&[7], &[1, 2, 3]).unwrap();
    let before = terminal.clone();
    let error = terminal.before_write(&ring, &[0_u8; 8], &[1, 2], 2);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the observation column holds 8 numbers, expected 6"
    );
    assert!(
        terminal
            .before_write(&ring, &[0_u8; 9], &[1, 2, 3], 2)
            .is_err()
    );
    assert!(terminal.patch(&[1, 2], &mut [0; 5]).is_err());
    assert!(TerminalObs::import(&[1, 2], &[0; 5]).is_err());
    assert_eq!(terminal, before);
    terminal.clear();
    assert!(terminal.is_empty());
}
