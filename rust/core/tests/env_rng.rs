//! The generators against NumPy 2.4's own output.

use mlx_baselines3_core::rng::{Pcg64, SeedSequence};
use proptest::prelude::*;

#[test]
fn seed_sequence_spreads_seeds_of_any_size() {
    // np.random.SeedSequence(seed).generate_state(4, np.uint64)
    let cases: [(&[u32], [u64; 4]); 4] = [
        (
            &[0],
            [
                0xdb2c_d7e7_b0f4_78be,
                0xabf4_641a_2c71_ba49,
                0x20c6_ed6d_9d7b_8d41,
                0x2c40_99de_223c_39d4,
            ],
        ),
        (
            &[42],
            [
                0x9f1e_2e6d_cd54_0ab7,
                0xd578_73dc_79fb_94b6,
                0x7d28_2a1b_64d4_20b7,
                0x3365_7971_4692_d5ff,
            ],
        ),
        (
            &[5, 0, 1],
            [
                0x3bc5_6ee7_d67e_b732,
                0x784f_8ac1_3182_cbed,
                0x377e_d8ac_eb24_eb98,
                0x4e1c_de22_d5c0_d56f,
            ],
        ),
        (
            &[0x3039, 0, 0, 0, 0, 0, 0x100],
            [
                0x4801_28f2_37eb_5a28,
                0x18bc_e3f6_9452_ba76,
                0x6154_0ee7_1d66_d9e5,
                0x465a_b540_2837_6a83,
            ],
        ),
    ];
    for (words, expected) in cases {
        assert_eq!(
            SeedSequence::new(words).generate::<4>(),
            expected,
            "{words:?}"
        );
    }
}

#[test]
fn pcg64_has_numpys_state_and_output() {
    let mut rng = Pcg64::new(&SeedSequence::from_u64(42));
    let state = rng.state();
    assert_eq!(
        state.state,
        274_674_114_334_540_486_603_088_602_300_644_985_544
    );
    assert_eq!(
        state.inc,
        332_724_090_758_049_132_448_979_897_138_935_081_983
    );
    let expected = [
        0xc621_fbcd_16d9_2688,
        0x705a_5661_a791_ffc1,
        0xdbcd_12c2_6eda_1624,
    ];
    assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], expected);
}

#[test]
fn doubles_are_numpys_to_the_bit() {
    let mut rng = Pcg64::new(&SeedSequence::from_u64(42));
    let expected = [
        0x3fe8_c43f_79a2_db24,
        0x3fdc_1695_9869_e47e,
        0x3feb_79a2_584d_db42,
    ];
    assert_eq!(
        [rng.random(), rng.random(), rng.random()].map(f64::to_bits),
        expected
    );
    // np.random.Generator(np.random.PCG64(42)).uniform(-0.05, 0.05, 6)[3:]
    let expected = [
        0.019736802905936393,
        -0.04058226521123505,
        0.047562235163675595,
    ];
    assert_eq!([0; 3].map(|_| rng.uniform(-0.05, 0.05)), expected);
}

proptest! {
    #[test]
    fn a_restored_state_goes_on_the_same(seed: u64, skip in 0_usize..50) {
        let mut rng = Pcg64::new(&SeedSequence::from_u64(seed));
        for _ in 0..skip {
            rng.next_u64();
        }
        let mut restored = Pcg64::from_state(rng.state());
        prop_assert_eq!(rng.next_u64(), restored.next_u64());
        prop_assert_eq!(rng.state(), restored.state());
    }

    #[test]
    fn one_rounding_or_two_differ_by_the_last_place_at_most(seed: u64) {
        let twice = Pcg64::new(&SeedSequence::from_u64(seed)).uniform(-0.6, -0.4);
        let once = Pcg64::new(&SeedSequence::from_u64(seed)).fused(true).uniform(-0.6, -0.4);
        prop_assert!((twice - once).abs() <= f64::EPSILON / 2.0);
        prop_assert!((-0.6..-0.4).contains(&twice));
    }
}
