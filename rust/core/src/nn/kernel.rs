//! The inner loops, compiled once for each vector unit and chosen when they run.

use pulp::{Arch, Simd, WithSimd};

use super::inference::{InferenceLayer, LANES};

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
                dense(
                    simd,
                    layer,
                    0,
                    (self.input, layer.inputs()),
                    (out, layer.stride()),
                );
            } else {
                let stride = self.layers[index - 1].stride();
                let input = &from[..self.rows * stride];
                dense(simd, layer, 0, (input, stride), (out, layer.stride()));
            }
            layer.activation().apply(out);
            (to, from) = (from, to);
        }
    }
}

/// The outputs of a layer from `first` on, both multiples of the widest vector's lanes, before the activation
/// and after it. Each row of `y` has as many numbers as there are of these outputs.
pub(super) fn outputs(
    layer: &InferenceLayer,
    first: usize,
    x: &[f32],
    y: &mut [f32],
    width: usize,
) {
    Arch::new().dispatch(SomeOutputs {
        layer,
        first,
        x,
        y,
        width,
    });
}

struct SomeOutputs<'a> {
    layer: &'a InferenceLayer,
    first: usize,
    x: &'a [f32],
    y: &'a mut [f32],
    width: usize,
}

impl WithSimd for SomeOutputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            layer,
            first,
            x,
            y,
            width,
        } = self;
        let stride = layer.inputs();
        for (x, y) in x
            .chunks(block_rows(stride) * stride)
            .zip(y.chunks_mut(block_rows(stride) * width))
        {
            dense(simd, layer, first, (x, stride), (y, width));
        }
        layer.activation().apply(y);
    }
}

/// Rows that stay in a core's own cache while the outputs are computed in turn.
fn block_rows(inputs: usize) -> usize {
    const NUMBERS: usize = 1 << 16;
    (NUMBERS / inputs).max(1).next_multiple_of(ROWS)
}

/// Rows that share the loads of the weights.
const ROWS: usize = 6;

/// `W x + b` for each row of `x`, for the outputs from `first` on.
#[inline(always)]
fn dense<S: Simd>(
    simd: S,
    layer: &InferenceLayer,
    first: usize,
    (x, x_stride): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
) {
    let rows = y.len() / y_stride;
    let several = rows - rows % ROWS;
    let (vectors, first) = (y_stride / S::F32_LANES, first / S::F32_LANES);
    let (x_several, x_rest) = x.split_at(several * x_stride);
    let (y_several, y_rest) = y.split_at_mut(several * y_stride);
    // The weights of a few outputs stay in the first cache while all rows go by.
    const V: usize = 2;
    let wide = if several > 0 {
        vectors - vectors % V
    } else {
        0
    };
    for at in (0..wide).step_by(V) {
        blocks::<S, V>(
            simd,
            layer,
            (first, at),
            (x_several, x_stride),
            (y_several, y_stride),
        );
    }
    for at in wide..if several > 0 { vectors } else { 0 } {
        blocks::<S, 1>(
            simd,
            layer,
            (first, at),
            (x_several, x_stride),
            (y_several, y_stride),
        );
    }
    let few = (x_rest, x_stride);
    match rows - several {
        2 => return block::<S, 2>(simd, layer, first, few, (y_rest, y_stride)),
        3 => return block::<S, 3>(simd, layer, first, few, (y_rest, y_stride)),
        4 => return block::<S, 4>(simd, layer, first, few, (y_rest, y_stride)),
        5 => return block::<S, 5>(simd, layer, first, few, (y_rest, y_stride)),
        _ => {}
    }
    let rows = x_rest
        .chunks_exact(x_stride)
        .zip(y_rest.chunks_exact_mut(y_stride));
    for (x, y) in rows {
        let x = [&x[..layer.inputs()]];
        let (eight, four) = (vectors - vectors % 8, vectors - vectors % 4);
        for at in (0..eight).step_by(8) {
            tile::<S, 1, 8>(simd, layer, x, (y, y_stride), (first, at));
        }
        for at in (eight..four).step_by(4) {
            tile::<S, 1, 4>(simd, layer, x, (y, y_stride), (first, at));
        }
        for at in four..vectors {
            tile::<S, 1, 1>(simd, layer, x, (y, y_stride), (first, at));
        }
    }
}

/// `R` rows, fewer than a block: they share the loads of the weights, too.
#[inline(always)]
fn block<S: Simd, const R: usize>(
    simd: S,
    layer: &InferenceLayer,
    first: usize,
    (x, x_stride): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
) {
    let vectors = y_stride / S::F32_LANES;
    let inputs: [&[f32]; R] =
        std::array::from_fn(|r| &x[r * x_stride..r * x_stride + layer.inputs()]);
    let pairs = vectors - vectors % 2;
    for at in (0..pairs).step_by(2) {
        tile::<S, R, 2>(simd, layer, inputs, (&mut *y, y_stride), (first, at));
    }
    for at in pairs..vectors {
        tile::<S, R, 1>(simd, layer, inputs, (&mut *y, y_stride), (first, at));
    }
}

/// Blocks of rows against `V` vectors of outputs.
#[inline(always)]
fn blocks<S: Simd, const V: usize>(
    simd: S,
    layer: &InferenceLayer,
    at: (usize, usize),
    (x, x_stride): (&[f32], usize),
    (y, y_stride): (&mut [f32], usize),
) {
    let rows = x
        .chunks_exact(ROWS * x_stride)
        .zip(y.chunks_exact_mut(ROWS * y_stride));
    for (x, y) in rows {
        let inputs: [&[f32]; ROWS] =
            std::array::from_fn(|r| &x[r * x_stride..r * x_stride + layer.inputs()]);
        tile::<S, ROWS, V>(simd, layer, inputs, (y, y_stride), at);
    }
}

/// `R` rows against `V` vectors of outputs: the sums stay in registers. The vectors are the `at`th of `y`,
/// which begins with the `first` of the layer.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    layer: &InferenceLayer,
    x: [&[f32]; R],
    (y, y_stride): (&mut [f32], usize),
    (first, at): (usize, usize),
) {
    let (bias, _) = S::as_simd_f32s(layer.bias());
    let (weights, _) = S::as_simd_f32s(layer.weights());
    let inputs = layer.inputs();
    let start: [S::f32s; V] = std::array::from_fn(|v| bias[first + at + v]);
    // Vectors of a panel, and for each vector of outputs those of the panel from its own on.
    let of_panel = LANES / S::F32_LANES;
    let panels: [&[S::f32s]; V] = std::array::from_fn(|v| {
        let (panel, place) = ((first + at + v) / of_panel, (first + at + v) % of_panel);
        &weights[panel * inputs * of_panel + place..(panel + 1) * inputs * of_panel]
    });
    let mut sums = [start; R];
    for i in 0..inputs {
        let row: [S::f32s; V] = std::array::from_fn(|v| panels[v][i * of_panel]);
        for r in 0..R {
            let factor = simd.splat_f32s(x[r][i]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(factor, row[v], sums[r][v]);
            }
        }
    }
    for (sums, y) in sums.iter().zip(y.chunks_exact_mut(y_stride)) {
        let (y, _) = S::as_mut_simd_f32s(y);
        y[at..at + V].copy_from_slice(sums);
    }
}
