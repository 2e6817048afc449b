//! Checked against a naive convolution or product with the merged weight, and by finite differences of it in f64.

use super::*;
use rand::{RngExt, SeedableRng};

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random::<f32>() - 0.5).collect()
}

/// `ΔW(x)` by definition, in f64.
fn naive(g: &Geometry, x: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut y = vec![0f64; g.y_len()];
    match g {
        &Geometry::Linear { outer, input, output, inner, rank } => {
            for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
                for k in 0..output {
                    for c in 0..input {
                        let w: f64 = (0..rank).map(|r| a[c * rank + r] * b[r * output + k]).sum();
                        y[(o * output + k) * inner + i] += w * x[(o * input + c) * inner + i];
                    }
                }
            }
        }
        Geometry::Conv { shape: s, rank } => {
            let (ci, co, taps) = (s.group_in(), s.group_out(), s.taps());
            for n in 0..s.batch {
                for o in 0..s.output {
                    for q in 0..s.out_plane() {
                        let q3 = split(q, s.out_size);
                        for c in 0..ci {
                            for t in 0..taps {
                                let k3 = split(t, s.kernel);
                                let p3: Vec<isize> = (0..3)
                                    .map(|ax| {
                                        (q3[ax] * s.stride[ax] + k3[ax] * s.dilation[ax]) as isize
                                            - s.pad_before[ax] as isize
                                    })
                                    .collect();
                                if (0..3).any(|ax| p3[ax] < 0 || p3[ax] >= s.in_size[ax] as isize) {
                                    continue;
                                }
                                let p =
                                    (p3[0] as usize * s.in_size[1] + p3[1] as usize) * s.in_size[2] + p3[2] as usize;
                                let w: f64 = (0..*rank).map(|r| b[o * rank + r] * a[(r * ci + c) * taps + t]).sum();
                                let ch = o / co * ci + c;
                                y[(n * s.output + o) * s.out_plane() + q] +=
                                    w * x[(n * s.input + ch) * s.in_plane() + p];
                            }
                        }
                    }
                }
            }
        }
        // Each product of the convolution from y to x, the other way.
        Geometry::Deconv { shape: s, rank } => {
            let (co, ci, taps) = (s.group_in(), s.group_out(), s.taps());
            for (n, c) in (0..s.batch).flat_map(|n| (0..s.output).map(move |c| (n, c))) {
                for (p, o, t) in (0..s.out_plane())
                    .flat_map(|p| (0..co).map(move |o| (p, o)))
                    .flat_map(|(p, o)| (0..taps).map(move |t| (p, o, t)))
                {
                    let (p3, k3) = (split(p, s.out_size), split(t, s.kernel));
                    let q3: Vec<isize> = (0..3)
                        .map(|ax| {
                            (p3[ax] * s.stride[ax] + k3[ax] * s.dilation[ax]) as isize - s.pad_before[ax] as isize
                        })
                        .collect();
                    if (0..3).any(|ax| q3[ax] < 0 || q3[ax] >= s.in_size[ax] as isize) {
                        continue;
                    }
                    let q = (q3[0] as usize * s.in_size[1] + q3[1] as usize) * s.in_size[2] + q3[2] as usize;
                    let o = c / ci * co + o;
                    let w: f64 = (0..*rank).map(|r| a[(c * rank + r) * taps + t] * b[o * rank + r]).sum();
                    y[(n * s.input + o) * s.in_plane() + q] += w * x[(n * s.output + c) * s.out_plane() + p];
                }
            }
        }
    }
    y
}

fn split(i: usize, size: [usize; 3]) -> [usize; 3] {
    [i / (size[1] * size[2]), i / size[2] % size[1], i % size[2]]
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| v as f64).collect()
}

fn check(g: Geometry) {
    let (la, lb) = g.factor_lens();
    let (x, a, b, dy) = (noise(g.x_len(), 1), noise(la, 2), noise(lb, 3), noise(g.y_len(), 4));
    let mut y = noise(g.y_len(), 5);
    let before = y.clone();
    let saved = g.forward(&x, &a, &b, &mut y);
    assert_eq!(saved.len(), g.saved_len(), "{g:?}");
    let want = naive(&g, &wide(&x), &wide(&a), &wide(&b));
    for i in 0..y.len() {
        assert!(
            ((y[i] - before[i]) as f64 - want[i]).abs() < 1e-4,
            "{g:?} y[{i}]: {} != {}",
            y[i] - before[i],
            want[i]
        );
    }
    // The gradient of x is added to what is there.
    let mut dx = vec![1f32; x.len()];
    let grads = g.backward(true, &x, &saved, &a, &b, &dy, None, Some(&mut dx));
    dx.iter_mut().for_each(|d| *d -= 1.0);
    // Along a random direction of each input, the slope of <dy, ΔW(x)> must equal <gradient, direction>.
    let slope = |dir: [&[f32]; 3]| -> f64 {
        let at = |e: f64| -> f64 {
            let go = |v: &[f32], d: &[f32]| -> Vec<f64> {
                v.iter().zip(d).map(|(v, d)| *v as f64 + e * *d as f64).collect()
            };
            let y = naive(&g, &go(&x, dir[0]), &go(&a, dir[1]), &go(&b, dir[2]));
            y.iter().zip(&dy).map(|(y, d)| y * *d as f64).sum()
        };
        (at(1e-4) - at(-1e-4)) / 2e-4
    };
    let zero = [vec![0f32; x.len()], vec![0f32; a.len()], vec![0f32; b.len()]];
    for (slot, grad) in [(0, &dx), (1, &grads.a), (2, &grads.b)] {
        let dir = noise(grad.len(), 9 + slot as u64);
        let mut dirs = [&zero[0][..], &zero[1][..], &zero[2][..]];
        dirs[slot] = &dir;
        let (fd, ad) = (slope(dirs), grad.iter().zip(&dir).map(|(g, d)| *g as f64 * *d as f64).sum::<f64>());
        assert!((fd - ad).abs() <= 1e-4 * (1.0 + fd.abs()), "{g:?} slot {slot}: {fd} != {ad}");
    }
    let without = g.backward(true, &x, &saved, &a, &b, &dy, None, None);
    assert!(without.a == grads.a && without.b == grads.b);
    // Where A stays, the rest is the same, and x is not read but by depthwise sites.
    let mut fixed_dx = vec![1f32; x.len()];
    let read = if g.is_depthwise() { &x[..] } else { &[] };
    let fixed = g.backward(false, read, &saved, &a, &b, &dy, None, Some(&mut fixed_dx));
    fixed_dx.iter_mut().for_each(|d| *d -= 1.0);
    assert!(fixed.b == grads.b && fixed_dx == dx, "{g:?}");
}

#[test]
fn linear_rows_and_channel_planes() {
    for (outer, inner) in [(1, 1), (7, 1), (3, 5)] {
        for (input, output, rank) in [(4, 6, 2), (1, 3, 1), (9, 1, 4), (16, 24, 8)] {
            check(Geometry::Linear { outer, input, output, inner, rank });
        }
    }
}

fn conv(rank: usize, shape: ConvShape) {
    check(Geometry::Conv { shape, rank });
}

fn deconv(rank: usize, shape: ConvShape) {
    check(Geometry::Deconv { shape, rank });
}

#[test]
fn convolutions_of_every_kind() {
    let base = ConvShape {
        batch: 2,
        input: 4,
        output: 6,
        groups: 1,
        in_size: [1, 6, 7],
        out_size: [1, 6, 7],
        kernel: [1, 3, 3],
        stride: [1; 3],
        dilation: [1; 3],
        pad_before: [0, 1, 1],
    };
    conv(3, base.clone());
    conv(3, ConvShape { groups: 2, batch: 1, ..base.clone() });
    conv(3, ConvShape { out_size: [1, 3, 4], stride: [1, 2, 2], ..base.clone() });
    conv(3, ConvShape { kernel: [1; 3], pad_before: [0; 3], ..base.clone() });
    conv(3, ConvShape { kernel: [1; 3], pad_before: [0; 3], stride: [1, 2, 2], out_size: [1, 3, 4], ..base.clone() });
    conv(3, ConvShape { dilation: [1, 2, 2], pad_before: [0, 2, 2], ..base.clone() });
    conv(
        3,
        ConvShape { kernel: [1, 1, 5], pad_before: [0, 0, 2], in_size: [1, 1, 9], out_size: [1, 1, 9], ..base.clone() },
    );
    conv(3, ConvShape { kernel: [2, 3, 3], in_size: [4, 6, 7], out_size: [3, 6, 7], ..base.clone() });
    // both ways: few channels or a large stride take columns
    conv(1, ConvShape { out_size: [1, 3, 4], stride: [1, 2, 2], ..base.clone() });
    conv(
        6,
        ConvShape {
            kernel: [2, 3, 3],
            in_size: [4, 6, 7],
            out_size: [3, 6, 7],
            dilation: [1, 1, 2],
            pad_before: [0, 1, 2],
            ..base.clone()
        },
    );
    conv(
        3,
        ConvShape {
            input: 1,
            kernel: [1, 1, 16],
            stride: [1, 1, 5],
            pad_before: [0, 0, 3],
            in_size: [1, 1, 50],
            out_size: [1, 1, 9],
            ..base.clone()
        },
    );
    // three channels a group: the reshape of the weight, the shares of A and the planes all differ in size
    for (groups, output, size) in [(4, 16, 4), (4, 16, 2), (3, 6, 3), (4, 8, 1)] {
        let size = [1, size, size];
        conv(4, ConvShape { input: 12, output, groups, in_size: size, out_size: size, ..base.clone() });
    }
    // depthwise, with one and with two outputs a channel, strided and padded on one side
    conv(3, ConvShape { output: 4, groups: 4, ..base.clone() });
    conv(3, ConvShape { output: 8, groups: 4, out_size: [1, 3, 4], stride: [1, 2, 2], ..base.clone() });
    conv(3, ConvShape { output: 4, groups: 4, pad_before: [0; 3], kernel: [1, 3, 2], out_size: [1, 4, 6], ..base });
}

/// More than is moved at once: of channels and positions in columns, of taps that are shifted, of taps of a transposed
/// convolution.
#[test]
fn blocks_of_large_kernels() {
    let base = ConvShape {
        batch: 1,
        input: 2,
        output: 1,
        groups: 1,
        in_size: [1, 40, 41],
        out_size: [1, 40, 41],
        kernel: [1, 15, 15],
        stride: [1; 3],
        dilation: [1; 3],
        pad_before: [0, 7, 7],
    };
    assert!(base.block_len() < base.input * base.taps() * base.out_plane(), "several blocks of positions");
    conv(3, base.clone());
    let tall = ConvShape {
        in_size: [1, 70, 60],
        out_size: [1, 20, 60],
        kernel: [1, 51, 21],
        pad_before: [0, 0, 10],
        ..base.clone()
    };
    let tall = ConvShape { input: 12, in_size: [1, 70, 24], out_size: [1, 20, 24], ..tall };
    assert!(tall.block().0 < tall.input, "several blocks of channels");
    conv(13, tall);
    conv(2, ConvShape { input: 3, ..base.clone() });
    deconv(2, base);
}

#[test]
fn transposed_convolutions() {
    // Shapes of the convolution that is transposed: `in_size` is that of y.
    let base = ConvShape {
        batch: 2,
        input: 4,
        output: 6,
        groups: 1,
        in_size: [1, 8, 9],
        out_size: [1, 4, 5],
        kernel: [1, 2, 3],
        stride: [1, 2, 2],
        dilation: [1; 3],
        pad_before: [0, 0, 1],
    };
    deconv(3, base.clone());
    deconv(3, ConvShape { groups: 2, ..base.clone() });
    deconv(3, ConvShape { input: 6, output: 6, groups: 6, batch: 1, ..base.clone() });
    deconv(3, ConvShape { in_size: [1, 5, 7], stride: [1; 3], dilation: [1, 2, 1], ..base.clone() });
    deconv(3, ConvShape { in_size: [1, 1, 10], out_size: [1, 1, 5], kernel: [1, 1, 4], stride: [1, 1, 2], ..base });
}
