//! Features extractors against loops in double precision that follow the definitions.

use mlx_baselines3_core::nn::{
    Activation, Branch, Conv2d, ConvLayer, Extractor, ExtractorError, ExtractorTape,
    ExtractorWorkspace, InferenceExtractor, LinearLayer, ObservationColumn, Rows,
};
use mlx_baselines3_core::threads;
use proptest::prelude::*;

const ACTIVATIONS: [Activation; 5] = [
    Activation::Relu,
    Activation::Tanh,
    Activation::Identity,
    Activation::Silu,
    Activation::LeakyRelu(0.1),
];

fn numbers(count: usize, step: f32) -> Vec<f32> {
    (0..count)
        .map(|i| ((i as f32 * step).sin() * 43.7).fract())
        .collect()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::LeakyRelu(slope) => x.max(f64::from(slope) * x),
        _ => x,
    }
}

/// The definition: for each output the sum over the pixels and channels that the kernel sees.
fn convolve(layer: &ConvLayer, parameters: &[f64], shape: &Shape, image: &[f64]) -> Vec<f64> {
    let [channels, height, width] = layer.conv.input();
    let [outputs, down, across] = layer.conv.output();
    let ([tall, wide], stride, padding) = (shape.kernel, shape.stride, shape.padding);
    let mut out = Vec::new();
    for o in 0..outputs {
        for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
            let mut sum = layer.bias.map_or(0.0, |at| parameters[at + o]);
            for c in 0..channels {
                for (ky, kx) in (0..tall).flat_map(|y| (0..wide).map(move |x| (y, x))) {
                    let (line, column) = (y * stride[0] + ky, x * stride[1] + kx);
                    let inside = (padding[0]..padding[0] + height).contains(&line)
                        && (padding[1]..padding[1] + width).contains(&column);
                    if inside {
                        let (line, column) = (line - padding[0], column - padding[1]);
                        let weight = ((o * channels + c) * tall + ky) * wide + kx;
                        sum += parameters[layer.weights + weight]
                            * image[(c * height + line) * width + column];
                    }
                }
            }
            out.push(activate(layer.activation, sum));
        }
    }
    out
}

fn apply(layer: &LinearLayer, parameters: &[f64], x: &[f64]) -> Vec<f64> {
    let lines = parameters[layer.weights..]
        .chunks(layer.inputs)
        .take(layer.outputs);
    lines
        .enumerate()
        .map(|(o, weights)| {
            let bias = layer.bias.map_or(0.0, |at| parameters[at + o]);
            let sum: f64 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
            activate(layer.activation, sum + bias)
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Shape {
    outputs: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    bias: bool,
    activation: usize,
}

/// A branch for images of which some shapes fit, its parameters from `place` on.
fn image_branch(
    image: [usize; 3],
    shapes: &[Shape],
    linear: Option<usize>,
    scale: f32,
    place: &mut usize,
) -> (Branch, Vec<Shape>) {
    let mut take = |count: usize| {
        *place += count;
        *place - count
    };
    let (mut at, mut convolutions, mut used) = (image, Vec::new(), Vec::new());
    for shape in shapes {
        let Shape {
            outputs,
            kernel,
            stride,
            padding,
            bias,
            activation,
        } = shape.clone();
        let Ok(conv) = Conv2d::new(at, outputs, kernel, stride, padding) else {
            continue;
        };
        at = conv.output();
        convolutions.push(ConvLayer {
            conv,
            bias: bias.then(|| take(outputs)),
            weights: take(conv.weights()),
            activation: ACTIVATIONS[activation],
        });
        used.push(shape.clone());
    }
    let flat = at.iter().product();
    let linears = linear.map(|outputs| LinearLayer {
        inputs: flat,
        outputs,
        weights: take(flat * outputs),
        bias: Some(take(outputs)),
        activation: Activation::Tanh,
    });
    let branch = Branch {
        column: 1,
        inputs: image.iter().product(),
        scale,
        convolutions,
        linears: linears.into_iter().collect(),
    };
    (branch, used)
}

fn features(branches: &[(Branch, Vec<Shape>)], parameters: &[f64], row: [&[f64]; 2]) -> Vec<f64> {
    let of_branch = |(branch, shapes): &(Branch, Vec<Shape>)| {
        let scale = f64::from(branch.scale);
        let mut x: Vec<f64> = row[branch.column].iter().map(|x| x * scale).collect();
        for (layer, shape) in branch.convolutions.iter().zip(shapes) {
            x = convolve(layer, parameters, shape, &x);
        }
        for layer in &branch.linears {
            x = apply(layer, parameters, &x);
        }
        x
    };
    branches.iter().flat_map(of_branch).collect()
}

struct Case {
    branches: Vec<(Branch, Vec<Shape>)>,
    size: usize,
    vector: Vec<f32>,
    bytes: Vec<u8>,
    rows: Vec<u32>,
}

const STORED: usize = 5;

impl Case {
    fn new(image: [usize; 3], shapes: &[Shape], linear: Option<usize>, rows: usize) -> Self {
        let mut place = 2;
        let branch = image_branch(image, shapes, linear, 1.0 / 255.0, &mut place);
        let vector = Branch {
            column: 0,
            inputs: 3,
            scale: 1.0,
            convolutions: Vec::new(),
            linears: Vec::new(),
        };
        let size = place + 1;
        let bytes = numbers(STORED * branch.0.inputs, 0.77);
        Self {
            branches: vec![branch, (vector, Vec::new())],
            size,
            vector: numbers(3 * STORED, 1.3),
            bytes: bytes.iter().map(|x| (x.abs() * 255.9) as u8).collect(),
            rows: (0..rows).map(|row| (row * 3 % STORED) as u32).collect(),
        }
    }

    fn extractor(&self) -> Extractor {
        let branches: Vec<Branch> = self
            .branches
            .iter()
            .map(|(branch, _)| branch.clone())
            .collect();
        Extractor::new(&branches).unwrap()
    }

    /// Features and the gradient of their weighted sum.
    fn run(&self, parameters: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let extractor = self.extractor();
        assert!(extractor.parameters() <= self.size);
        let columns = [
            ObservationColumn::Floats(&self.vector),
            ObservationColumn::Bytes(&self.bytes),
        ];
        let rows = Rows::Listed(&self.rows);
        let (mut tape, mut gradient) = (ExtractorTape::default(), vec![0.0; self.size]);
        let mut found = Vec::new();
        // What was in the memory before does not matter.
        for _ in 0..2 {
            let features = extractor.forward(parameters, &columns, rows, &mut tape);
            found = features.to_vec();
            let weights = self.weights(found.len());
            extractor.backward(
                parameters,
                &columns,
                rows,
                &mut tape,
                &weights,
                &mut gradient,
            );
        }
        (found, gradient)
    }

    /// The features of some rows from an extractor that acts.
    fn act(&self, parameters: &[f32], rows: &[u32]) -> Vec<f32> {
        let branches: Vec<Branch> = self
            .branches
            .iter()
            .map(|(branch, _)| branch.clone())
            .collect();
        let mut extractor = InferenceExtractor::zeros(&branches).unwrap();
        let some = self.size > 3;
        assert_eq!(extractor.load(&parameters[..2]).is_err(), some);
        extractor.load(parameters).unwrap();
        let columns = [
            ObservationColumn::Floats(&self.vector),
            ObservationColumn::Bytes(&self.bytes),
        ];
        let (mut work, mut found) = (ExtractorWorkspace::default(), Vec::new());
        // What was in the memory before does not matter.
        for rows in [rows, rows] {
            let rows = Rows::Listed(rows);
            found = extractor
                .forward(&columns, rows, &mut work)
                .unwrap()
                .to_vec();
        }
        found
    }

    fn weights(&self, count: usize) -> Vec<f32> {
        numbers(count, 2.1)
    }

    fn expected(&self, parameters: &[f64]) -> Vec<f64> {
        let (vector, bytes): (Vec<f64>, Vec<f64>) = (
            self.vector.iter().map(|&x| f64::from(x)).collect(),
            self.bytes.iter().map(|&x| f64::from(x)).collect(),
        );
        let width = self.branches[0].0.inputs;
        let row = |row: usize| {
            let (vector, image) = (
                &vector[row * 3..(row + 1) * 3],
                &bytes[row * width..(row + 1) * width],
            );
            features(&self.branches, parameters, [vector, image])
        };
        let of_stored: Vec<Vec<f64>> = (0..STORED).map(row).collect();
        let rows = self.rows.iter();
        rows.flat_map(|&row| of_stored[row as usize].clone())
            .collect()
    }

    /// That the features are those of the definition, and the gradients their differences.
    fn check(&self) {
        // So short that hardly any sum changes its sign, where an activation has a kink.
        const STEP: f64 = 1e-8;
        // Small enough for sums of a thousand products to keep their digits.
        let parameters: Vec<f32> = numbers(self.size, 0.9).iter().map(|x| x * 0.3).collect();
        let (found, gradient) = self.run(&parameters);
        let mut exact: Vec<f64> = parameters.iter().map(|&x| f64::from(x)).collect();
        let expected = self.expected(&exact);
        assert_eq!(found.len(), expected.len());
        for (index, (&got, &want)) in found.iter().zip(&expected).enumerate() {
            let gap = (f64::from(got) - want).abs();
            assert!(
                gap < 2e-5 * (1.0 + want.abs()),
                "{index}: {got}, expected {want}"
            );
        }
        let acted = self.act(&parameters, &self.rows);
        for (index, (&got, &want)) in acted.iter().zip(&expected).enumerate() {
            let gap = (f64::from(got) - want).abs();
            assert!(
                gap < 2e-5 * (1.0 + want.abs()),
                "{index}: {got}, expected {want}"
            );
        }
        let one_by_one = self
            .rows
            .iter()
            .flat_map(|&row| self.act(&parameters, &[row]));
        assert_eq!(acted, one_by_one.collect::<Vec<_>>());
        let weights = self.weights(found.len());
        let mut loss = |at: usize, by: f64| -> f64 {
            exact[at] += by;
            let outputs = self.expected(&exact);
            exact[at] -= by;
            outputs
                .iter()
                .zip(&weights)
                .map(|(x, &w)| x * f64::from(w))
                .sum()
        };
        let step = (self.size / 12).max(1);
        for at in (0..self.size).step_by(step) {
            let want = (loss(at, STEP) - loss(at, -STEP)) / (2.0 * STEP);
            let gap = (f64::from(gradient[at]) - want).abs();
            let got = gradient[at];
            assert!(
                gap < 2e-4 * (1.0 + want.abs()),
                "{at}: {got}, expected {want}"
            );
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    (
        1..6_usize,
        pair(1..5),
        pair(1..4),
        pair(0..3),
        any::<bool>(),
        0..ACTIVATIONS.len(),
    )
        .prop_map(
            |(outputs, kernel, stride, padding, bias, activation)| Shape {
                outputs,
                kernel,
                stride,
                padding,
                bias,
                activation,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn any_shapes_compute_what_the_definition_says(
        image in (1..4_usize, 2..9_usize, 2..9_usize),
        shapes in prop::collection::vec(shape(), 1..4),
        linear in prop::option::of(1..7_usize),
        rows in 1..12_usize,
    ) {
        let image = [image.0, image.1, image.2];
        Case::new(image, &shapes, linear, rows).check();
    }
}

fn plain(outputs: usize, kernel: usize, stride: usize) -> Shape {
    Shape {
        outputs,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [0; 2],
        bias: true,
        activation: 0,
    }
}

/// Long runs, more channels than a product takes transposed, several blocks of lines.
#[test]
fn wide_layers_compute_what_the_definition_says() {
    let shapes = [plain(33, 8, 4), plain(5, 3, 1)];
    Case::new([2, 20, 20], &shapes, Some(3), 3).check();
    let shapes = [plain(2, 9, 1), plain(1, 36, 1)];
    Case::new([1, 44, 60], &shapes, None, 2).check();
}

/// Several blocks of rows, outputs and inputs of a linear layer.
#[test]
fn wide_linear_layers_compute_what_the_definition_says() {
    Case::new([3, 9, 10], &[plain(3, 1, 1)], Some(140), 140).check();
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let shapes = [plain(32, 8, 4), plain(40, 4, 2), plain(40, 3, 1)];
    for rows in [1, 6, 17] {
        let case = Case::new([2, 44, 44], &shapes, Some(140), rows);
        let parameters: Vec<f32> = numbers(case.size, 0.9).iter().map(|x| x * 0.1).collect();
        let results: Vec<_> = [1, 2, 5]
            .map(|count| {
                threads::set(Some(count));
                (case.run(&parameters), case.act(&parameters, &case.rows))
            })
            .into();
        threads::set(None);
        assert!(results[0].1.iter().any(|&x| x != 0.0));
        assert!(results[1] == results[0] && results[2] == results[0]);
    }
}

#[test]
fn kernels_without_a_place_and_layers_that_do_not_fit_are_refused() {
    let conv = |input, kernel, stride, padding| Conv2d::new(input, 1, kernel, stride, padding);
    assert!(conv([1, 4, 4], [5, 1], [1, 1], [0, 0]).is_err());
    assert_eq!(
        conv([1, 4, 4], [5, 1], [1, 1], [1, 0]).unwrap().output(),
        [1, 2, 4]
    );
    assert!(conv([1, 4, 4], [1, 1], [0, 1], [0, 0]).is_err());
    assert!(conv([0, 4, 4], [1, 1], [1, 1], [0, 0]).is_err());
    assert!(conv([1, 4, 4], [0, 1], [1, 1], [0, 0]).is_err());
    assert!(conv([usize::MAX, 4, 4], [1, 1], [1, 1], [0, 0]).is_err());
    assert!(conv([1, 4, usize::MAX], [1, 1], [1, 1], [9, usize::MAX]).is_err());
    assert_eq!(Extractor::new(&[]).unwrap_err(), ExtractorError::Empty);
    let (mut branch, _) = image_branch([1, 4, 4], &[plain(2, 2, 1)], Some(3), 1.0, &mut 0);
    branch.linears[0].inputs = 17;
    let expected = ExtractorError::Width {
        branch: 0,
        layer: 1,
        got: 17,
        expected: 18,
    };
    assert_eq!(Extractor::new(&[branch]).unwrap_err(), expected);
    let (mut branch, _) = image_branch(
        [2, 4, 3],
        &[plain(2, 1, 1), plain(2, 1, 1)],
        None,
        1.0,
        &mut 0,
    );
    branch.convolutions[1].conv = conv([3, 4, 2], [1, 1], [1, 1], [0, 0]).unwrap();
    assert!(matches!(
        Extractor::new(&[branch]),
        Err(ExtractorError::Width { layer: 1, .. })
    ));
}
