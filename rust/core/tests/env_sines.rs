//! Sines and cosines of several angles at once: the C library's, in every bit.

use std::f64::consts::PI;

use mlx_baselines3_core::env::sines::{Work, cosines, dispatch, sines_and_cosines};
use mlx_baselines3_core::rng::{Pcg64, SeedSequence};

const LANES: usize = 8;
type Lanes = [f64; LANES];

struct Waves(Lanes);

impl Work for Waves {
    type Output = [Lanes; 3];

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> [Lanes; 3] {
        let (sines, cosines_too) = sines_and_cosines::<FUSED, LANES>(self.0);
        [sines, cosines_too, cosines::<FUSED, LANES>(self.0)]
    }
}

fn assert_the_c_librarys(angles: Lanes) {
    let got = dispatch(Waves(angles)).map(|lanes| lanes.map(f64::to_bits));
    let (sines, cosines) = (angles.map(f64::sin), angles.map(f64::cos));
    let wanted = [sines, cosines, cosines].map(|lanes| lanes.map(f64::to_bits));
    assert_eq!(got, wanted, "angles {angles:?}");
}

fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut rng = Pcg64::new(&SeedSequence::from_u64(seed));
    move || rng.random()
}

#[test]
fn angles_of_a_few_turns() {
    let mut random = random(1);
    for _ in 0..100_000 {
        assert_the_c_librarys(std::array::from_fn(|_| 40.0 * random() - 20.0));
        // Where the C library has other ways: below 0.126, 0.855 and 2.43.
        assert_the_c_librarys(std::array::from_fn(|_| 5.0 * random() - 2.5));
    }
}

#[test]
fn angles_of_every_size() {
    let mut random = random(2);
    for _ in 0..50_000 {
        assert_the_c_librarys(std::array::from_fn(|i| {
            let size = (random() * 80.0 - 60.0).exp2() * (1.0 + random());
            if i % 2 == 0 { size } else { -size }
        }));
    }
}

/// Where the sine or the cosine is zero, a row of the table, half way between two, or a power of two.
#[test]
fn angles_beside_the_special_ones() {
    let mut random = random(3);
    let twelfths = (-200..=200).map(|k| f64::from(k) * PI / 12.0);
    let halves_of_rows = (-800..=800).map(|k| f64::from(k) * PI / 128.0);
    let powers =
        (1..60).map(|k| (1.0 / f64::from(1_u32 << (k % 30))).acos() + f64::from(k / 30) * PI);
    for angle in twelfths.chain(halves_of_rows).chain(powers) {
        for spread in [1e-15, 1e-9, 1e-4] {
            assert_the_c_librarys(std::array::from_fn(|_| angle + (random() - 0.5) * spread));
        }
    }
}

#[test]
fn angles_without_a_sine_of_their_own() {
    assert_the_c_librarys([
        0.0,
        -0.0,
        1.0,
        f64::MIN_POSITIVE,
        5e-324,
        1e308,
        -1e17,
        16.0,
    ]);
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.5,
        1.5,
        2.5,
        3.5,
        4.5,
    ];
    let [sines, cosines, _] = dispatch(Waves(odd));
    assert!(sines[..3].iter().chain(&cosines[..3]).all(|x| x.is_nan()));
    assert_eq!(
        sines[3..].to_vec(),
        odd[3..].iter().map(|x| x.sin()).collect::<Vec<_>>()
    );
}
