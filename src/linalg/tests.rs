use super::*;
use crate::sync::{on_cores, run_pass};

/// Deterministic values in (-1, 1).
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

/// Strides of layout `kind` for rows x cols, and the slice length needed.
fn layout(kind: usize, rows: usize, cols: usize) -> (usize, usize, usize) {
    let (rs, cs) = match kind {
        0 => (cols, 1),
        1 => (1, rows),
        2 => (cols + 3, 1),
        3 => (1, rows + 5),
        _ => (2 * cols + 1, 2),
    };
    let len = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * rs + (cols - 1) * cs + 1 };
    (rs, cs, len)
}

/// The backends that can compute `a·b`.
fn backends(a: &MatRef<'_>, b: &MatRef<'_>) -> Vec<Backend> {
    let mut all = vec![
        Backend::MatrixMultiply,
        #[cfg(feature = "fast-gemm")]
        Backend::Gemm,
    ];
    all.extend(dots::suits(a, b).then_some(Backend::Dots));
    all
}

/// Every backend against the definition, in f64, over shapes, layouts, and (alpha, beta).
fn compare(m: usize, n: usize, k: usize, (la, lb, lc): (usize, usize, usize), alpha: f32, beta: f32) {
    let (ars, acs, alen) = layout(la, m, k);
    let (brs, bcs, blen) = layout(lb, k, n);
    let (crs, ccs, clen) = layout(lc, m, n);
    let (a, b) = (values(alen, 1), values(blen, 2));
    let mut before = values(clen, 3);
    if beta == 0.0 {
        for i in 0..m {
            for j in 0..n {
                before[i * crs + j * ccs] = f32::NAN;
            }
        }
    }
    let mut want = before.clone();
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| a[i * ars + p * acs] as f64 * b[p * brs + j * bcs] as f64).sum();
            let old = if beta == 0.0 { 0.0 } else { beta as f64 * before[i * crs + j * ccs] as f64 };
            want[i * crs + j * ccs] = (alpha as f64 * sum + old) as f32;
        }
    }
    let mut runs: Vec<(String, Vec<f32>)> = Vec::new();
    let am = MatRef::new(&a, m, k, ars, acs).unwrap();
    let bm = MatRef::new(&b, k, n, brs, bcs).unwrap();
    for backend in backends(&am, &bm) {
        let mut c = before.clone();
        gemm_with(backend, alpha, am, bm, beta, MatMut::new(&mut c, m, n, crs, ccs).unwrap());
        runs.push((format!("{backend:?}"), c));
    }
    let mut c = before.clone();
    gemm(alpha, am, bm, beta, MatMut::new(&mut c, m, n, crs, ccs).unwrap()).unwrap();
    runs.push(("chosen".into(), c));
    for (name, c) in runs {
        for (x, y) in c.iter().zip(&want) {
            let tolerance = 1e-6 * (k as f32 + 4.0);
            assert!((x - y).abs() <= tolerance, "{name} {m}x{k}x{n} layouts {la}{lb}{lc} beta {beta}: {x} is not {y}");
        }
    }
}

#[test]
fn every_backend_agrees_with_the_definition() {
    let shapes = [
        (0, 3, 4),
        (3, 0, 4),
        (3, 4, 0),
        (1, 1, 1),
        (1, 40, 33),
        (1, 7, 90),
        (40, 1, 33),
        (5, 6, 7),
        (33, 8, 70),
        (17, 5, 64),
        (8, 100, 20),
        (3, 49, 5),
        (16, 130, 9),
        (40, 50, 8),
        (31, 37, 1),
        (50, 20, 16),
        (20, 17, 40),
        (64, 48, 32),
        (1, 43, 32),
        (7, 19, 77),
        (41, 6, 100),
        (130, 30, 39),
    ];
    // Interpreted, only the small ones end in time.
    for (m, n, k) in shapes.into_iter().filter(|(m, n, k)| !cfg!(miri) || m * n * k <= 250) {
        for la in 0..5 {
            for lb in 0..5 {
                for lc in 0..5 {
                    let (alpha, beta) = if (la + lb + lc) % 2 == 0 { (1.0, 0.0) } else { (0.5, -2.0) };
                    compare(m, n, k, (la, lb, lc), alpha, beta);
                }
            }
        }
    }
    let side = if cfg!(miri) { 6 } else { 20 };
    compare(side, side, side, (0, 0, 0), 0.0, 0.5);
    compare(side, side, side, (0, 0, 0), 2.0, 1.0);
}

/// What the runtime promises of threads rests on this: kernels sum a value in the same order in a part and in
/// the whole.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut shared = 0;
    for (at, (m, n)) in [
        (32, 384),
        (32, 1536),
        (1, 1000),
        (2, 700),
        (49, 1152),
        (1152, 49),
        (64, 64),
        (65, 64),
        (192, 49),
        (112, 196),
        (24, 3136),
        (96, 12544),
        (8, 384),
        (512, 8),
        (1, 1536),
        (3, 577),
        (128, 576),
        (161, 163),
        (81, 4096),
        (512, 1536),
    ]
    .into_iter()
    .enumerate()
    {
        for k in [3, 8, 144, 511, 513, 672, 1153] {
            if m * n * k > 100_000_000 || m * n * k < 2 * PART {
                continue;
            }
            for layouts in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 0, 3), (2, 3, 4)] {
                let ((ars, acs, alen), (brs, bcs, blen), (crs, ccs, clen)) =
                    (layout(layouts.0, m, k), layout(layouts.1, k, n), layout(layouts.2, m, n));
                let (a, b, before) = (values(alen, at as u64), values(blen, 2), values(clen, 3));
                let run = |threads: usize, beta: f32| {
                    let mut c = before.clone();
                    let pass = |_: Option<&_>| {
                        let a = MatRef::new(&a, m, k, ars, acs).unwrap();
                        let b = MatRef::new(&b, k, n, brs, bcs).unwrap();
                        gemm(0.5, a, b, beta, MatMut::new(&mut c, m, n, crs, ccs).unwrap()).unwrap();
                        Cut::new(choose(&a, &b), m, k, n, 1, ccs <= crs).parts()
                    };
                    let parts = on_cores(threads, || run_pass(true, pass)).unwrap();
                    (c, parts)
                };
                for beta in [0.0, 1.0] {
                    let (one, parts) = run(1, beta);
                    assert_eq!(parts, 1);
                    for threads in [2, 3, 8] {
                        let (several, parts) = run(threads, beta);
                        shared += usize::from(parts > 1);
                        assert!(one == several, "{m}x{k}x{n}, layouts {layouts:?}, {parts} parts on {threads} threads");
                    }
                }
            }
        }
    }
    assert!(shared > 1000, "{shared} products were shared");
}

#[test]
fn parts_cover_a_product_once() {
    for (m, n) in [(1, 1), (1, 5000), (5000, 1), (97, 2049), (64, 64), (300, 70)] {
        for (by_rows, backend) in [true, false].into_iter().zip([Backend::MatrixMultiply, Backend::Dots]) {
            on_cores(5, || {
                run_pass(true, |_| {
                    let cut = Cut::new(backend, m, 4096, n, 1, by_rows).within(1000, 1500);
                    let mut seen = vec![0u8; m * n];
                    for (rows, cols) in (0..cut.parts()).map(|part| cut.part(part)) {
                        rows.for_each(|i| cols.clone().for_each(|j| seen[i * n + j] += 1));
                    }
                    assert!(seen.iter().all(|s| *s == 1), "{m}x{n}");
                })
            })
            .unwrap();
        }
    }
}

#[test]
fn views_that_do_not_fit_are_refused() {
    let data = [0.0; 11];
    assert!(MatRef::row_major(&data, 3, 4).is_err());
    assert!(MatRef::new(&data, 3, 4, 4, 0).is_ok());
    assert!(MatRef::new(&data, 2, 2, usize::MAX, 1).is_err());
    assert!(MatRef::new(&data, usize::MAX, 2, usize::MAX, 1).is_err());
    assert!(MatRef::new(&[], 0, usize::MAX, usize::MAX, 1).is_ok());
    let mut out = [0.0; 12];
    assert!(MatMut::new(&mut out, 3, 4, 0, 1).is_err());
    assert!(MatMut::new(&mut out, 3, 4, 3, 1).is_err());
    assert!(MatMut::new(&mut out, 3, 4, 1, 3).is_ok());
    let a = MatRef::row_major(&data, 2, 3).unwrap();
    assert!(gemm(1.0, a, a, 0.0, MatMut::row_major(&mut out, 2, 3).unwrap()).is_err());
}

#[test]
fn ndarray_views_in_both_orders() {
    let x = ndarray::Array2::from_shape_fn((3, 4), |(i, j)| (i * 4 + j) as f32);
    let xt = x.t();
    let mut y = ndarray::Array2::zeros((4, 4));
    gemm(1.0, MatRef::of(&xt).unwrap(), MatRef::of(&x).unwrap(), 0.0, MatMut::of(&mut y).unwrap()).unwrap();
    assert_eq!(y, xt.dot(&x));
    let reversed = x.slice(ndarray::s![..;-1, ..]);
    assert!(MatRef::of(&reversed).is_err());
    let gaps = x.slice(ndarray::s![.., ..2]);
    assert!(MatRef::of(&gaps).is_err());
}

/// The table of the module's documentation: `cargo test --release --features fast-gemm linalg -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn measure() {
    use std::time::Instant;
    // (what, m, k, n, layouts of A, B, C, beta)
    let cases = [
        ("square", 512, 384, 1536, (0, 0, 0), 0.0),
        ("square, W transposed", 512, 1536, 384, (0, 1, 0), 0.0),
        ("32 rows", 32, 384, 1536, (0, 0, 0), 0.0),
        ("32 rows, W transposed", 32, 1536, 384, (0, 1, 0), 0.0),
        ("2 rows, W transposed", 2, 1536, 384, (0, 1, 0), 0.0),
        ("8 rows, W transposed", 8, 1536, 384, (0, 1, 0), 0.0),
        ("32 rows, W transposed", 32, 1280, 384, (0, 1, 0), 0.0),
        ("64 rows, W transposed", 64, 1536, 384, (0, 1, 0), 0.0),
        ("128 rows, W transposed", 128, 1536, 384, (0, 1, 0), 0.0),
        ("8 rows, W transposed", 8, 768, 768, (0, 1, 0), 0.0),
        ("32 rows, W transposed", 32, 768, 384, (0, 1, 0), 0.0),
        ("64 rows, W transposed", 64, 768, 768, (0, 1, 0), 0.0),
        ("2 rows, W transposed", 2, 384, 384, (0, 1, 0), 0.0),
        ("8 rows, W transposed", 8, 384, 384, (0, 1, 0), 0.0),
        ("32 rows, W transposed", 32, 384, 384, (0, 1, 0), 0.0),
        ("64 rows, W transposed", 64, 384, 1536, (0, 1, 0), 0.0),
        ("32 rows, W transposed", 32, 1536, 8, (0, 1, 0), 0.0),
        ("32 rows, W transposed", 32, 3072, 768, (0, 1, 0), 0.0),
        ("x·A", 512, 384, 8, (0, 0, 0), 0.0),
        ("dy·Bt", 512, 384, 8, (0, 1, 0), 0.0),
        ("x·A r16", 512, 384, 16, (0, 0, 0), 0.0),
        ("x·A r4", 512, 384, 4, (0, 0, 0), 0.0),
        ("x·A 32 rows", 32, 384, 8, (0, 0, 0), 0.0),
        ("y += t·B", 512, 8, 384, (0, 0, 0), 1.0),
        ("y += t·B r16", 512, 16, 384, (0, 0, 0), 1.0),
        ("y += t·B 32 rows", 32, 8, 384, (0, 0, 0), 1.0),
        ("dx += dt·At", 512, 8, 384, (0, 1, 0), 1.0),
        ("xt·dt", 384, 512, 8, (1, 0, 0), 0.0),
        ("tt·dy", 8, 512, 384, (1, 0, 0), 0.0),
        ("conv to r", 8, 32, 12544, (0, 0, 0), 0.0),
        ("conv from r", 32, 8, 12544, (0, 0, 0), 1.0),
        ("conv 72", 72, 32, 12544, (0, 0, 0), 0.0),
        ("conv 4", 4, 16, 12544, (0, 0, 0), 0.0),
        ("conv dA", 8, 12544, 32, (0, 1, 0), 0.0),
        ("conv dB", 32, 12544, 8, (0, 1, 0), 0.0),
        ("1 row", 1, 384, 1536, (0, 0, 0), 0.0),
        ("1 row, W transposed", 1, 1536, 384, (0, 1, 0), 0.0),
        ("1 row x·A", 1, 384, 8, (0, 0, 0), 0.0),
        ("1 row t·B", 1, 8, 384, (0, 0, 0), 1.0),
        ("probe f·W", 312, 384, 39, (0, 0, 0), 0.0),
        ("probe ft·dl", 384, 312, 39, (1, 0, 0), 0.0),
        ("probe f·W", 200, 1280, 10, (0, 0, 0), 0.0),
        ("probe ft·dl", 1280, 200, 10, (1, 0, 0), 0.0),
        ("har probe f·W", 65, 128, 6, (0, 0, 0), 0.0),
    ];
    println!("{:28} {:>18}  MatrixMultiply, Gemm, Dots where it can; chosen", "", "m x k x n");
    for (what, m, k, n, (la, lb, lc), beta) in cases {
        let (ars, acs, alen) = layout(la, m, k);
        let (brs, bcs, blen) = layout(lb, k, n);
        let (crs, ccs, clen) = layout(lc, m, n);
        let (a, b) = (values(alen, 1), values(blen, 2));
        let mut c = vec![0.0; clen];
        let flop = 2.0 * (m * n * k) as f64;
        let repeats = (2e7 / flop).ceil() as usize;
        let am = MatRef::new(&a, m, k, ars, acs).unwrap();
        let bm = MatRef::new(&b, k, n, brs, bcs).unwrap();
        let ways = backends(&am, &bm);
        let mut best = vec![f64::INFINITY; ways.len()];
        for _ in 0..25 {
            for (w, backend) in ways.iter().enumerate() {
                let t = Instant::now();
                for _ in 0..repeats {
                    gemm_with(*backend, 1.0, am, bm, beta, MatMut::new(&mut c, m, n, crs, ccs).unwrap());
                    std::hint::black_box(&mut c);
                }
                best[w] = best[w].min(t.elapsed().as_secs_f64() / repeats as f64);
            }
        }
        let chosen = choose(&am, &bm);
        let figures: Vec<String> = best.iter().map(|s| format!("{:6.1}", flop / s / 1e9)).collect();
        println!("{what:28} {:>18}  {}  {chosen:?}", format!("{m}x{k}x{n}"), figures.join("  "));
    }
}
