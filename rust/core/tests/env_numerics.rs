//! NumPy's and Python's arithmetic, pinned to what they answered.

use std::hint::black_box;

use mlx_baselines3_core::env::numerics::{
    Numerics, ReturnSum, Scalar, cos_sin_f32, floor_mod, round_micro, square, squares,
};
use mlx_baselines3_core::env::sines::{Work, dispatch};

#[test]
fn float32_cosine_and_sine_are_numpys_in_every_quadrant() {
    // (x, bits of np.cos(x), bits of np.sin(x)) in float32, NumPy 2.4 with FMA
    let cases: [(f32, u32, u32); 7] = [
        (0.05, 0x3f7f_ae19, 0x3d4c_b6f5),
        (-0.0999, 0x3f7e_b93f, 0xbdcc_414c),
        (0.7, 0x3f43_ccb3, 0x3f24_eb73),
        (2.0, 0xbed5_1132, 0x3f68_c7b7),
        (3.5, 0xbf6f_bba0, 0xbeb3_99dc),
        (-5.25, 0x3f03_1809, 0x3f5b_e322),
        (40.0, 0xbf2a_bc74, 0x3f3e_bfbd),
    ];
    for (x, cos, sin) in cases {
        let (got_cos, got_sin) = cos_sin_f32(x);
        assert_eq!(
            (got_cos.to_bits(), got_sin.to_bits()),
            (cos, sin),
            "x = {x}"
        );
    }
    // Beyond its range NumPy asks the C library for the cosine, and still reduces the sine.
    let (cos, sin) = cos_sin_f32(1e5);
    assert!((cos - -0.999_360_8).abs() < 1e-6 && (sin - 0.035_748_8).abs() < 1e-6);
    assert!(cos_sin_f32(f32::NAN).0.is_nan());
}

#[test]
fn modulo_takes_the_sign_of_the_divisor() {
    assert_eq!(floor_mod(7.0, 3.0), 1.0);
    assert_eq!(floor_mod(-7.0, 3.0), 2.0);
    assert_eq!(floor_mod(7.0, -3.0), -2.0);
    assert!(floor_mod(-6.0, 3.0).is_sign_positive());
}

#[test]
fn squares_are_exact_where_a_double_holds_them() {
    assert_eq!(square(0.5), 0.25);
    assert_eq!(square(-3.0), 9.0);
    assert_eq!(
        square(f64::from(0.1_f32)),
        f64::from(0.1_f32) * f64::from(0.1_f32)
    );
}

struct Squares([f64; 3]);

impl Work for Squares {
    type Output = [f64; 3];

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> [f64; 3] {
        squares::<FUSED, 3>(self.0)
    }
}

/// All sizes, mantissas at random: the C library is asked directly.
#[test]
fn squares_are_the_c_librarys_powers_in_every_bit() {
    let mut bits: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut products = 0;
    for i in 0..2_000_000_u64 {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        // Mostly sizes that physics has, sometimes any: subnormal, infinite and not a number, too.
        let exponent = if i % 8 == 0 {
            bits >> 53
        } else {
            1003 + (bits >> 53) % 40
        };
        let x = f64::from_bits((bits << 12 >> 12) | (exponent << 52));
        let power = x.powf(black_box(2.0));
        assert_eq!(square(x).to_bits(), power.to_bits(), "{x:e}");
        let at_once = dispatch(Squares([1.0, x, 3.0]));
        let wanted = [1.0, power, 9.0].map(f64::to_bits);
        assert_eq!(at_once.map(f64::to_bits), wanted, "{x:e}");
        products += usize::from(power == x * x);
        let x = f32::from_bits((bits as u32 >> 9) | ((exponent as u32 & 0xff) << 23));
        let Scalar::Single(squared) = Scalar::Single(x).squared(Numerics::default()) else {
            panic!("a float32 stays one");
        };
        assert_eq!(squared.to_bits(), x.powf(black_box(2.0)).to_bits(), "{x:e}");
    }
    assert!(products < 2_000_000, "no power differed from a product");
}

#[test]
fn a_python_float_yields_to_float32_since_numpy_2() {
    let new = Numerics::default();
    let old = Numerics {
        weak_scalars: false,
        ..new
    };
    let (x, y) = (Scalar::Single(0.1), Scalar::Python(0.1));
    assert!(matches!(x.mul(y, new), Scalar::Single(v) if v == 0.1_f32 * 0.1_f32));
    assert!(matches!(y.mul(x, old), Scalar::Double(v) if v == 0.1 * f64::from(0.1_f32)));
    assert!(matches!(x.add(Scalar::Double(1.0), new), Scalar::Double(_)));
    assert!(matches!(y.sub(y, new), Scalar::Python(v) if v == 0.0));
    // float32(0.1) is a little more than 0.1: equal in float32, greater in float64.
    assert!(x.eq(y, new) && x.ge(y, new) && !x.gt(y, new));
    assert!(x.gt(y, old) && !x.eq(y, old));
}

#[test]
fn returns_are_summed_as_python_does() {
    let total = |compensated_sum, rewards: &[f64]| {
        let numerics = Numerics {
            compensated_sum,
            ..Numerics::default()
        };
        let mut sum = ReturnSum::default();
        rewards.iter().for_each(|&reward| sum.add(reward, numerics));
        sum.value()
    };
    assert_eq!(total(false, &[0.1; 10]), 0.999_999_999_999_999_9);
    assert_eq!(total(true, &[0.1; 10]), 1.0);
    assert_eq!(total(true, &[1.0, 1e100, 1.0, -1e100]), 2.0);
    assert_eq!(total(false, &[1.0, 1e100, 1.0, -1e100]), 0.0);
}

#[test]
fn rounding_to_six_decimals_is_pythons_or_left_to_it() {
    assert_eq!(round_micro(-217.0), Some(-217.0));
    assert_eq!(round_micro(-0.123_456_789), Some(-0.123_457));
    assert_eq!(round_micro(1_234.567_891_2), Some(1_234.567_891));
    // 1/128 lies in the middle between two results, the others beyond exact products.
    for undecided in [0.007_812_5, 3e9 + 0.1, f64::INFINITY, f64::NAN] {
        assert_eq!(round_micro(undecided), None);
    }
}
