//! No n-step return crosses an episode's end or the write head, whatever was written before.

use mlx_baselines3_core::buffer::layout::{ALIGN, Layout};
use mlx_baselines3_core::buffer::ring::Ring;
use mlx_baselines3_core::buffer::rows::{flatten_env_major, gather};
use proptest::prelude::*;

/// What was stored: the number of its episode and of its step, counted since the beginning.
#[derive(Clone, Copy, Debug)]
struct Step {
    episode: usize,
    time: usize,
    ends: bool,
}

/// Writes episodes of the given lengths, as a buffer does.
fn write(capacity: usize, lengths: &[usize], last: usize) -> (Vec<Option<Step>>, Ring) {
    let mut rows = vec![None; capacity];
    let mut time = 0;
    let unfinished = [last];
    for (episode, &length) in lengths.iter().chain(&unfinished).enumerate() {
        for step in 1..=length {
            let ends = episode < lengths.len() && step == length;
            rows[time % capacity] = Some(Step {
                episode,
                time,
                ends,
            });
            time += 1;
        }
    }
    (
        rows,
        Ring::new(capacity, time % capacity, time >= capacity).unwrap(),
    )
}

proptest! {
    #[test]
    fn spans_stay_inside_one_episode(
        capacity in 1_usize..40,
        lengths in prop::collection::vec(1_usize..12, 0..12),
        last in 0_usize..12,
        n_steps in 1_usize..9,
    ) {
        let (rows, ring) = write(capacity, &lengths, last);
        let newest = rows.iter().flatten().map(|step| step.time).max();
        prop_assert_eq!(ring.len(), rows.iter().flatten().count());
        for (row, step) in rows.iter().enumerate() {
            let span = ring.span(row, n_steps, |row| rows[row].is_some_and(|step| step.ends));
            let Some(first) = step else {
                prop_assert_eq!(span, None);
                continue;
            };
            let span = span.unwrap();
            prop_assert!((1..=n_steps).contains(&span));
            for steps in 0..span {
                let seen = rows[ring.after(row, steps)].unwrap();
                prop_assert_eq!((seen.episode, seen.time), (first.episode, first.time + steps));
            }
            // It is as long as it may be: it stopped for one of the three reasons.
            let end = rows[ring.after(row, span - 1)].unwrap();
            prop_assert!(span == n_steps || end.ends || Some(end.time) == newest);
        }
    }

    #[test]
    fn columns_never_touch(rows in 0_usize..1000, widths in prop::collection::vec(0_usize..500, 0..8)) {
        let layout = Layout::new(rows, &widths).unwrap();
        let mut free = 0;
        for (index, width) in widths.iter().enumerate() {
            let column = layout.column(index).unwrap();
            prop_assert!(column.start >= free && column.start.is_multiple_of(ALIGN));
            prop_assert_eq!(column.len(), rows * width);
            free = column.end;
        }
        prop_assert!(layout.bytes() >= free);
    }

    #[test]
    fn flattening_twice_gives_back_the_rows(steps in 1_usize..9, envs in 1_usize..9, width in 0_usize..20) {
        let from: Vec<u8> = (0..steps * envs * width).map(|byte| byte as u8).collect();
        let (mut once, mut twice) = (from.clone(), from.clone());
        flatten_env_major(&from, &mut once, steps, envs, width).unwrap();
        flatten_env_major(&once, &mut twice, envs, steps, width).unwrap();
        prop_assert_eq!(twice, from);
    }

    #[test]
    fn gathered_rows_are_the_rows_asked_for(
        width in 1_usize..40, picks in prop::collection::vec(0_usize..50, 0..50),
    ) {
        let from: Vec<u8> = (0..50).flat_map(|row| vec![row; width]).collect();
        let mut to = vec![255; picks.len() * width];
        gather(&from, &mut to, width, &picks).unwrap();
        for (row, pick) in to.chunks(width).zip(picks) {
            prop_assert!(row.iter().all(|&byte| usize::from(byte) == pick));
        }
    }
}
