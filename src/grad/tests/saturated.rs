//! Slopes far out: of activations, cells and softmax rows that saturate, fused and composed, against double precision.

use tract_core::ops::gru_cell::GruEpilogue;
use tract_core::ops::lstm_cell::LstmEpilogue;

use super::*;
use crate::ops::{mish, softplus};

const X: [f32; 37] = [
    -300.0, -150.0, -100.0, -87.0, -80.0, -50.0, -30.0, -20.0, -15.0, -12.0, -9.5, -8.0, -5.0, -3.0, -2.0, -1.0, -0.5,
    -0.001, 0.0, 0.001, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 9.5, 12.0, 15.0, 20.0, 30.0, 50.0, 80.0, 87.0, 100.0, 150.0,
    300.0,
];

/// Derivatives at [`X`]: `mpmath` with 400 digits, from each function's closed form; what is below 1e-60 is 0.
#[rustfmt::skip]
const SLOPES: [(&str, [f64; 37]); 7] = [
    ("sigmoid", [
        0.0, 0.0, 3.72007598e-44, 1.64581143e-38, 1.80485139e-35, 1.92874985e-22, 9.35762297e-14, 2.06115361e-9,
        3.05902133e-7, 6.14413685e-6, 7.48406256e-5, 3.35237671e-4, 6.64805667e-3, 0.0451766597, 0.104993585,
        0.196611933, 0.235003712, 0.249999938, 0.25, 0.249999938, 0.235003712, 0.196611933, 0.104993585,
        0.0451766597, 6.64805667e-3, 3.35237671e-4, 7.48406256e-5, 6.14413685e-6, 3.05902133e-7, 2.06115361e-9,
        9.35762297e-14, 1.92874985e-22, 1.80485139e-35, 1.64581143e-38, 3.72007598e-44, 0.0, 0.0,
    ]),
    ("tanh", [
        0.0, 0.0, 0.0, 0.0, 0.0, 1.48803039e-43, 3.50260431e-26, 1.6993417e-17, 3.74304919e-13, 1.51005382e-10,
        2.24111855e-8, 4.50140598e-7, 1.81583231e-4, 9.86603717e-3, 0.0706508249, 0.419974342, 0.786447733,
        0.999999, 1.0, 0.999999, 0.786447733, 0.419974342, 0.0706508249, 9.86603717e-3, 1.81583231e-4,
        4.50140598e-7, 2.24111855e-8, 1.51005382e-10, 3.74304919e-13, 1.6993417e-17, 3.50260431e-26, 1.48803039e-43,
        0.0, 0.0, 0.0, 0.0, 0.0,
    ]),
    ("softplus", [
        0.0, 0.0, 3.72007598e-44, 1.64581143e-38, 1.80485139e-35, 1.92874985e-22, 9.35762297e-14, 2.06115362e-9,
        3.05902227e-7, 6.1441746e-6, 7.48462275e-5, 3.3535013e-4, 6.69285092e-3, 0.0474258732, 0.119202922,
        0.268941421, 0.377540669, 0.49975, 0.5, 0.50025, 0.622459331, 0.731058579, 0.880797078, 0.952574127,
        0.993307149, 0.99966465, 0.999925154, 0.999993856, 0.999999694, 0.999999998, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
        1.0,
    ]),
    ("silu", [
        0.0, 0.0, -3.68287522e-42, -1.41539783e-36, -1.4258326e-33, -9.45087426e-21, -2.71371066e-12,
        -3.91619187e-8, -4.28262977e-6, -6.75854676e-5, -6.36139715e-4, -2.34655124e-3, -0.0265474324, -0.088104106,
        -0.0907842488, 0.0723294881, 0.260038813, 0.4995, 0.5, 0.5005, 0.739961187, 0.927670512, 1.09078425,
        1.08810411, 1.02654743, 1.00234655, 1.00063614, 1.00006759, 1.00000428, 1.00000004, 1.0, 1.0, 1.0, 1.0, 1.0,
        1.0, 1.0,
    ]),
    ("mish", [
        0.0, 0.0, -3.68287522e-42, -1.41539783e-36, -1.4258326e-33, -9.45087426e-21, -2.71371066e-12,
        -3.91619187e-8, -4.28263113e-6, -6.75859017e-5, -6.36190129e-4, -2.34739438e-3, -0.026747498, -0.0933931145,
        -0.108355092, 0.0592167559, 0.289510678, 0.599359952, 0.6, 0.600639952, 0.886424375, 1.04903622, 1.06931793,
        1.02110691, 1.00080022, 1.00000337, 1.0000002, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
    ]),
    ("gelu", [
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -8.25935466e-49, -2.55789566e-31, -9.46909347e-20, -3.97960726e-14,
        -7.146946e-6, -0.0119456472, -0.0852318011, -0.0833154706, 0.132504875, 0.499202116, 0.5, 0.500797884,
        0.867495125, 1.08331547, 1.0852318, 1.01194565, 1.00000715, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
        1.0, 1.0, 1.0,
    ]),
    ("gelu_tanh", [
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -5.29040335e-60, -1.38987322e-31, -4.7147845e-20,
        -1.54636199e-6, -0.0115841666, -0.0860992566, -0.0829640838, 0.132630096, 0.499202116, 0.5, 0.500797884,
        0.867369904, 1.08296408, 1.08609926, 1.01158417, 1.00000155, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
        1.0, 1.0, 1.0,
    ]),
];

/// To 3e-5 of the value, down to what single precision holds with all its digits.
fn assert_close(name: &str, at: &[f32], have: &[f32], want: &[f64]) {
    assert_eq!(have.len(), want.len(), "{name}");
    for ((x, have), want) in at.iter().zip(have).zip(want) {
        let error = (f64::from(*have) - want).abs();
        assert!(error <= 3e-5 * want.abs() + 2e-38, "{name} at {x}: {have:e}, not {want:e}");
    }
}

/// Gradients of `Σ dy·f(x)` for every input.
fn gradients_of(
    inputs: &[Tensor],
    dys: &[Tensor],
    fused: bool,
    build: &dyn Fn(&mut TypedModel, &[OutletId]) -> TVec<OutletId>,
) -> Vec<Vec<f32>> {
    let mut model = TypedModel::default();
    let source = |(i, x): (usize, &Tensor)| model.add_source(format!("x{i}"), f32::fact(x.shape())).unwrap();
    let sources: Vec<OutletId> = inputs.iter().enumerate().map(source).collect();
    let outputs = build(&mut model, &sources);
    model.select_output_outlets(&outputs).unwrap();
    let back = differentiate(&model, &outputs, &sources, fused).unwrap();
    assert!(back.blocked.is_empty(), "{:?}", back.blocked);
    let mut tapped = model.clone();
    tapped.outputs.extend(&back.saved);
    let mut values = dys.to_vec();
    values.extend(run(&tapped, inputs.to_vec()).into_iter().skip(outputs.len()).map(|t| t.into_tensor()));
    run(&back.model, values).iter().map(|g| crate::sites::floats(g).unwrap().to_vec()).collect()
}

#[test]
fn activations() {
    let x = tensor1(&X);
    for (name, want) in SLOPES {
        let op = || -> Box<dyn TypedOp> {
            match name {
                "sigmoid" => nn::sigmoid().into(),
                "tanh" => math::tanh().into(),
                "softplus" => softplus().into(),
                "silu" => nn::silu::silu().into(),
                "mish" => mish().into(),
                "gelu" => nn::gelu_exact::gelu_exact().into(),
                _ => nn::gelu_approximate::gelu_approximate(false).into(),
            }
        };
        for fused in [false, true] {
            let got = gradients_of(std::slice::from_ref(&x), &[tensor1(&[1f32; 37])], fused, &|m, x| {
                m.wire_node("f", op(), x).unwrap()
            });
            assert_close(&format!("{name}, fused {fused},"), &X, &got[0], &want);
        }
    }
}

/// What overflows on the way passes on neither an infinity nor what is no number.
#[test]
fn numbers_too_large_to_square() {
    let x = tensor1(&[-1e30f32, 1e30]);
    for (name, op) in [
        ("silu", Box::new(nn::silu::silu()) as Box<dyn TypedOp>),
        ("mish", Box::new(mish())),
        ("gelu", Box::new(nn::gelu_exact::gelu_exact())),
        ("gelu_tanh", Box::new(nn::gelu_approximate::gelu_approximate(false))),
    ] {
        for fused in [false, true] {
            let got = gradients_of(std::slice::from_ref(&x), &[tensor1(&[1f32; 2])], fused, &|m, x| {
                m.wire_node("f", op.clone(), x).unwrap()
            });
            assert_eq!(got[0], [0.0, 1.0], "{name}, fused {fused}");
        }
    }
    // A branch that is not taken: where(x > 0, x, exp(x)).
    let x = tensor1(&[-200f32, -1.0, 200.0]);
    let got = gradients_of(std::slice::from_ref(&x), &[tensor1(&[1f32; 3])], true, &|m, x| {
        let zero = m.add_const("zero", tensor1(&[0f32])).unwrap();
        let positive = m
            .wire_node(
                "positive",
                tract_core::ops::binary::TypedBinOp(tract_core::ops::logic::comp_gt(), None),
                &[x[0], zero],
            )
            .unwrap()[0];
        let e = m.wire_node("exp", math::exp(), x).unwrap()[0];
        m.wire_node("f", Iff, &[positive, x[0], e]).unwrap()
    });
    assert_close("a branch", &[-200.0, -1.0, 200.0], &got[0], &[0.0, (-1f64).exp(), 1.0]);
}

fn sigma(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

fn slope_of_tanh(x: f64) -> f64 {
    4.0 * sigma(2.0 * x) * sigma(-2.0 * x)
}

/// Numbers of every size up to 300, and pairs of them in every order.
const GATES: [f32; 9] = [-300.0, -40.0, -12.0, -3.0, 0.25, 2.0, 15.0, 60.0, 300.0];

#[test]
fn lstm_cells() {
    let rows = GATES.len();
    let pick = |row: usize, k: usize| GATES[(row * (k + 1) + 2 * k) % rows];
    // Gates in the order of the operator: input, output, forget, cell.
    let p: Vec<f32> = (0..rows * 4).map(|i| pick(i / 4, i % 4)).collect();
    let c0: Vec<f32> = (0..rows).map(|r| [0.5, -2.0, 8.0][r % 3]).collect();
    let (dh, dc) = (vec![1.0f32; rows], vec![-0.5f32; rows]);
    let tensor = |v: &[f32]| Tensor::from_shape(&[rows, v.len() / rows], v).unwrap();
    let (mut want_p, mut want_c) = (vec![], vec![]);
    for r in 0..rows {
        let gate = |k: usize| f64::from(p[4 * r + k]);
        let (i, o, f) = (sigma(gate(0)), sigma(gate(1)), sigma(gate(2)));
        let (g, before) = (gate(3).tanh(), f64::from(c0[r]));
        let c = f * before + i * g;
        let down = -0.5 + o * slope_of_tanh(c);
        want_p.extend([
            down * g * sigma(gate(0)) * sigma(-gate(0)),
            c.tanh() * o * sigma(-gate(1)),
            down * before * f * sigma(-gate(2)),
            down * i * slope_of_tanh(gate(3)),
        ]);
        want_c.push(down * f);
    }
    for fused in [false, true] {
        let got = gradients_of(&[tensor(&p), tensor(&c0)], &[tensor(&dh), tensor(&dc)], fused, &|m, x| {
            m.wire_node("cell", LstmEpilogue { hidden: 1 }, x).unwrap()
        });
        assert_close(&format!("gates, fused {fused},"), &p, &got[0], &want_p);
        assert_close(&format!("the state, fused {fused},"), &c0, &got[1], &want_c);
    }
}

#[test]
fn gru_cells() {
    let rows = GATES.len();
    let pick = |row: usize, k: usize| GATES[(row * (k + 1) + 2 * k) % rows];
    let x: Vec<f32> = (0..rows * 3).map(|i| pick(i / 3, i % 3)).collect();
    let u: Vec<f32> = (0..rows * 3).map(|i| [0.25, -1.0, 0.5, 2.0][i % 4]).collect();
    let h0: Vec<f32> = (0..rows).map(|r| [0.5, -0.25, 0.75][r % 3]).collect();
    let tensor = |v: &[f32]| Tensor::from_shape(&[rows, v.len() / rows], v).unwrap();
    let (mut want_x, mut want_u, mut want_h) = (vec![], vec![], vec![]);
    for row in 0..rows {
        let at = |v: &[f32], k: usize| f64::from(v[3 * row + k]);
        let (z, r) = (at(&x, 0) + at(&u, 0), at(&x, 1) + at(&u, 1));
        let n = at(&x, 2) + sigma(r) * at(&u, 2);
        let da = sigma(-z) * slope_of_tanh(n);
        let dz = (f64::from(h0[row]) - n.tanh()) * sigma(z) * sigma(-z);
        let dr = da * at(&u, 2) * sigma(r) * sigma(-r);
        want_x.extend([dz, dr, da]);
        want_u.extend([dz, dr, da * sigma(r)]);
        want_h.push(sigma(z));
    }
    for fused in [false, true] {
        let got = gradients_of(&[tensor(&x), tensor(&u), tensor(&h0)], &[tensor(&vec![1.0; rows])], fused, &|m, x| {
            m.wire_node("cell", GruEpilogue { hidden: 1 }, x).unwrap()
        });
        assert_close(&format!("x, fused {fused},"), &x, &got[0], &want_x);
        assert_close(&format!("u, fused {fused},"), &u, &got[1], &want_u);
        assert_close(&format!("h, fused {fused},"), &h0, &got[2], &want_h);
    }
}

/// `dx[i] = y[i]·Σ y[j]·(dy[i] - dy[j])` for a softmax; for its logarithm, `dy[i]·Σ' y - y[i]·Σ' dy`, sums over the other places.
#[test]
fn softmax_rows_with_one_answer() {
    let rows: [[f32; 4]; 6] = [
        [0.0, -30.0, -60.0, -40.0],
        [-20.0, 5.0, -25.0, -80.0],
        [300.0, 0.0, -300.0, 250.0],
        [1.0, 1.0, -17.0, 0.5],
        [0.0, -1.0, -2.0, -300.0],
        [-9.0, -18.0, -27.0, 0.0],
    ];
    let dys: [[f32; 4]; 6] = [
        [1.0, -0.5, 0.25, 0.75],
        [0.5, -1.0, 0.5, 0.5],
        [1.0, 2.0, 3.0, -1.0],
        [1.0, 0.5, -0.5, 2.0],
        [-1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, -1.0],
    ];
    let (mut wants, mut log_wants) = (vec![], vec![]);
    for (x, dy) in rows.iter().zip(&dys) {
        let most = x.iter().fold(f64::MIN, |m, v| m.max(f64::from(*v)));
        let e = x.map(|v| (f64::from(v) - most).exp());
        let y = e.map(|e| e / e_sum(&x.map(f64::from), most));
        let dy = dy.map(f64::from);
        for i in 0..4 {
            let others = || (0..4).filter(move |j| *j != i);
            wants.push(y[i] * others().map(|j| y[j] * (dy[i] - dy[j])).sum::<f64>());
            log_wants.push(dy[i] * others().map(|j| y[j]).sum::<f64>() - y[i] * others().map(|j| dy[j]).sum::<f64>());
        }
    }
    let (x, dy) = (rows.concat(), dys.concat());
    for (kind, want) in [(SoftmaxKind::Softmax, &wants), (SoftmaxKind::LogSoftmax, &log_wants)] {
        for fused in [false, true] {
            let tensor = |v: &[f32]| Tensor::from_shape(&[6, 4], v).unwrap();
            let got = gradients_of(&[tensor(&x)], &[tensor(&dy)], fused, &|m, x| {
                m.wire_node("softmax", Softmax::new(tvec!(1), None, kind), x).unwrap()
            });
            assert_close(&format!("{kind:?}, fused {fused},"), &x, &got[0], want);
        }
    }
}

fn e_sum(x: &[f64; 4], most: f64) -> f64 {
    x.iter().map(|v| (v - most).exp()).sum()
}
