//! The inner loops, compiled once for each vector unit and chosen when they run.

use pulp::{Arch, Simd, WithSimd};

use super::InferenceLayer;

/// Runs `layers` over `rows` rows; the first writes to `front`, the next to `back`, and so on.
pub(super) fn forward(
    layers: &[InferenceLayer],
    rows: usize,
    input: &[f32],
    front: &mut [f32],
    back: &mut [f32],
) {
    Arch::new().dispatch(Forward {
        layers,
        rows,
        input,
        front,
        back,
    });
}

struct Forward<'a> {
    layers: &'a [InferenceLayer],
    rows: usize,
    input: &'a [f32],
    front: &'a mut [f32],
    back: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (mut to, mut from) = (self.front, self.back);
        for (index, layer) in self.layers.iter().enumerate() {
            let out = &mut to[..self.rows * layer.stride()];
            if index == 0 {
                dense(simd, layer, self.input, layer.inputs(), out);
            } else {
                let stride = self.layers[index - 1].stride();
                dense(simd, layer, &from[..self.rows * stride], stride, out);
            }
            layer.activation().apply(out);
            (to, from) = (from, to);
        }
    }
}

/// `W x + b` for each row of `x`; four rows at a time share the loads of the weights.
#[inline(always)]
fn dense<S: Simd>(simd: S, layer: &InferenceLayer, x: &[f32], x_stride: usize, y: &mut [f32]) {
    const ROWS: usize = 4;
    let y_stride = layer.stride();
    let blocks = x.chunks(ROWS * x_stride).zip(y.chunks_mut(ROWS * y_stride));
    for (x, y) in blocks {
        if y.len() == ROWS * y_stride {
            let inputs: [&[f32]; ROWS] =
                std::array::from_fn(|r| &x[r * x_stride..r * x_stride + layer.inputs()]);
            row_block::<S, ROWS, 2, 1>(simd, layer, inputs, y);
        } else {
            let rows = x.chunks_exact(x_stride).zip(y.chunks_exact_mut(y_stride));
            for (x, y) in rows {
                row_block::<S, 1, 8, 4>(simd, layer, [&x[..layer.inputs()]], y);
            }
        }
    }
}

/// `R` rows against all outputs, `V` vectors of them at a time, then `W`, then single ones.
#[inline(always)]
fn row_block<S: Simd, const R: usize, const V: usize, const W: usize>(
    simd: S,
    layer: &InferenceLayer,
    x: [&[f32]; R],
    y: &mut [f32],
) {
    let vectors = layer.stride() / S::F32_LANES;
    let wide = vectors - vectors % V;
    let narrow = vectors - (vectors - wide) % W;
    for at in (0..wide).step_by(V) {
        tile::<S, R, V>(simd, layer, x, y, at);
    }
    for at in (wide..narrow).step_by(W) {
        tile::<S, R, W>(simd, layer, x, y, at);
    }
    for at in narrow..vectors {
        tile::<S, R, 1>(simd, layer, x, y, at);
    }
}

/// `R` rows against `V` vectors of outputs: the sums stay in registers.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    layer: &InferenceLayer,
    x: [&[f32]; R],
    y: &mut [f32],
    at: usize,
) {
    let (bias, _) = S::as_simd_f32s(layer.bias());
    let (weights, _) = S::as_simd_f32s(layer.weights());
    let start: [S::f32s; V] = std::array::from_fn(|v| bias[at + v]);
    let mut sums = [start; R];
    for (i, row) in weights.chunks_exact(bias.len()).enumerate() {
        let row = &row[at..at + V];
        for r in 0..R {
            let factor = simd.splat_f32s(x[r][i]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(factor, row[v], sums[r][v]);
            }
        }
    }
    for (sums, y) in sums.iter().zip(y.chunks_exact_mut(layer.stride())) {
        let (y, _) = S::as_mut_simd_f32s(y);
        y[at..at + V].copy_from_slice(sums);
    }
}
