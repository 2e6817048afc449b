use super::*;

/// The data of tests/golden_head.py.
fn golden() -> (Array2<f32>, Vec<usize>) {
    let y: Vec<usize> = (0..60).map(|i| i * 7 % 5 % 3).collect();
    let x = Array2::from_shape_fn((60, 4), |(i, j)| {
        let wave = (1.7 * i as f64 + 2.3 * (j * j) as f64 + 0.4).sin();
        (wave + if y[i] == j { 0.5 } else { 0.0 }) as f32
    });
    (x, y)
}

fn classes(y: &[usize]) -> Vec<LossTarget<'static>> {
    y.iter().map(|&c| LossTarget::Class(c)).collect()
}

fn accuracy(logits: &Array2<f32>, y: &[usize]) -> f64 {
    let right = logits
        .rows()
        .into_iter()
        .zip(y)
        .filter(|(z, y)| z.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 == **y);
    right.count() as f64 / y.len() as f64
}

const SKLEARN: SolveOptions =
    SolveOptions { l2: 1.0, scaling: Scaling::None, base_bias: 0.0, new_bias: 0.0, iterations: 1000, tolerance: 1e-6 };

#[test]
fn coefficients_match_scikit_learn() {
    let (x, y) = golden();
    let targets = classes(&y);
    let near = |head: &Head, weight: &[[f32; 3]; 4], bias: &[f32; 3]| {
        let want = ndarray::arr2(weight);
        assert!((&head.weight - &want).iter().all(|d| d.abs() < 1e-3), "{}", head.weight);
        assert!((&head.bias - &ndarray::arr1(bias)).iter().all(|d| d.abs() < 1e-3), "{}", head.bias);
    };
    let mut head = Head::new(4, 0, 3, true).unwrap();
    let even = vec![1.0; 60];
    head.solve(&HeadData { features: x.view(), base: None, targets: &targets, weights: &even }, &SKLEARN).unwrap();
    near(
        &head,
        &[
            [1.169457, -1.196751, 0.02729355],
            [-0.3250082, 1.940083, -1.615075],
            [0.8824785, -2.147491, 1.265012],
            [0.2451003, -0.9192441, 0.6741438],
        ],
        &[0.04612734, 0.260347, -0.3064744],
    );
    assert_eq!(accuracy(&head.forward(x.view(), None).unwrap(), &y), 0.9);
    let weights: Vec<f32> = (0..60).map(|i| if i % 3 == 0 { 2.0 } else { 0.5 }).collect();
    let options = SolveOptions { l2: 10.0, ..SKLEARN };
    head.solve(&HeadData { features: x.view(), base: None, targets: &targets, weights: &weights }, &options).unwrap();
    near(
        &head,
        &[
            [0.4075233, -0.1650461, -0.2424772],
            [-0.2621537, 0.4066005, -0.1444468],
            [0.01137222, -0.4651793, 0.4538071],
            [0.07797349, -0.1276084, 0.04963489],
        ],
        &[0.2379937, 0.2895512, -0.5275448],
    );
}

#[test]
fn offsets_are_kept_and_unnamed_classes_stay() {
    // The base is certain of class 0; the person says 1 every time. Class 2 is never named.
    let (x, _) = golden();
    let base = Array2::from_shape_fn((60, 3), |(_, c)| if c == 0 { 4.0 } else { 0.0 });
    let targets = vec![LossTarget::Class(1); 60];
    let weights = vec![1.0; 60];
    let mut head = Head::new(4, 3, 3, true).unwrap();
    let data = HeadData { features: x.view(), base: Some(base.view()), targets: &targets, weights: &weights };
    let solved = head.solve(&data, &SolveOptions::default()).unwrap();
    assert!(solved.converged);
    let z = head.forward(x.view(), Some(base.view())).unwrap();
    assert_eq!(accuracy(&z, &[1; 60]), 1.0);
    assert!(z.column(2).iter().all(|v| v.abs() < 3.0), "{}", z.column(2));
}

#[test]
fn a_new_class_is_learned_beside_a_base() {
    let (x, _) = golden();
    let base = Array2::from_shape_fn((60, 2), |(i, c)| if c == i % 2 { 6.0 } else { 0.0 });
    let y: Vec<usize> = (0..60).map(|i| if x[[i, 0]] > 0.5 { 2 } else { i % 2 }).collect();
    let (targets, weights) = (classes(&y), vec![1.0; 60]);
    let mut head = Head::new(4, 2, 3, false).unwrap();
    let data = HeadData { features: x.view(), base: Some(base.view()), targets: &targets, weights: &weights };
    head.solve(&data, &SolveOptions { l2: 0.01, ..Default::default() }).unwrap();
    assert!(accuracy(&head.forward(x.view(), Some(base.view())).unwrap(), &y) > 0.95);
}

#[test]
fn rejections_push_an_answer_away() {
    let (x, y) = golden();
    let base =
        Array2::from_shape_fn((60, 3), |(i, c)| if c == (y[i] + usize::from(i % 4 == 0)) % 3 { 2.0 } else { 0.0 });
    let targets: Vec<LossTarget<'_>> =
        (0..60).map(|i| if i % 4 == 0 { LossTarget::Not((y[i] + 1) % 3) } else { LossTarget::Class(y[i]) }).collect();
    let weights = vec![1.0; 60];
    let mut head = Head::new(4, 3, 3, true).unwrap();
    let data = HeadData { features: x.view(), base: Some(base.view()), targets: &targets, weights: &weights };
    let before = cross_entropy(base.view(), &targets, &weights, 0.0).unwrap().mean;
    let solved = head.solve(&data, &SolveOptions { l2: 0.01, ..Default::default() }).unwrap();
    let z = head.forward(x.view(), Some(base.view())).unwrap();
    let after = cross_entropy(z.view(), &targets, &weights, 0.0).unwrap().mean;
    assert!(solved.converged && after < 0.5 * before, "{before} {after} {solved:?}");
}

#[test]
fn scaling_is_folded_back_and_makes_units_irrelevant() {
    let (x, y) = golden();
    let (targets, weights) = (classes(&y), vec![1.0; 60]);
    for scaling in [Scaling::Whole, Scaling::Each] {
        let logits = |factor: f32, shift: f32| {
            let x = &x * factor + shift;
            let mut head = Head::new(4, 0, 3, true).unwrap();
            let data = HeadData { features: x.view(), base: None, targets: &targets, weights: &weights };
            head.solve(&data, &SolveOptions { scaling, tolerance: 1e-6, ..Default::default() }).unwrap();
            head.forward(x.view(), None).unwrap()
        };
        let difference = &logits(1.0, 0.0) - &logits(100.0, 500.0);
        assert!(difference.iter().all(|d| d.abs() < 2e-2), "{difference}");
    }
}

#[test]
fn a_head_on_normalised_features_is_the_head_on_rows_of_one_length() {
    let (x, y) = golden();
    let targets = classes(&y);
    let weights = vec![1.0; 60];
    let length = (x.iter().map(|v| v * v).sum::<f32>() / 60.0).sqrt();
    let unit = unit_rows(x.view());
    let stretched = &x * &Array2::from_shape_fn((60, 1), |(i, _)| 0.2 + i as f32);
    for options in [SKLEARN, SolveOptions::default()] {
        let solve = |normalised: bool, rows: &Array2<f32>| {
            let mut head = Head { normalised, ..Head::new(4, 0, 3, true).unwrap() };
            let data = HeadData { features: rows.view(), base: None, targets: &targets, weights: &weights };
            head.solve(&data, &options).unwrap();
            head
        };
        let (raw, ours) = (solve(false, &(&unit * length)), solve(true, &x));
        let want = raw.forward((&unit * length).view(), None).unwrap();
        let near = |got: &Array2<f32>| got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 2e-3);
        assert!(near(&ours.forward(x.view(), None).unwrap()));
        assert!(near(&ours.forward(stretched.view(), None).unwrap()), "lengths of single rows do not count");
    }
}

#[test]
fn the_penalty_is_chosen_on_held_out_blocks() {
    let (x, y) = golden();
    let weights = vec![1.0; 60];
    let folds: Vec<u32> = (0..60).map(|i| i / 4 % 5).collect();
    let head = Head::new(4, 0, 3, true).unwrap();
    let choose = |y: &[usize]| {
        let targets = classes(y);
        let data = HeadData { features: x.view(), base: None, targets: &targets, weights: &weights };
        head.choose_l2(&data, &folds, &L2_GRID, &SolveOptions::default()).unwrap()
    };
    let learnable = choose(&y);
    // Labels without any relation to x ask for the strongest penalty.
    let noise: Vec<usize> = (0..60).map(|i| (i * i * 31 + i * 17) / 13 % 3).collect();
    assert!(learnable.l2 < choose(&noise).l2, "{:?}", learnable.tried);
    assert!(accuracy(&learnable.held_out, &y) > 0.75);
    // Where some labels are wrong, strengths are hard to distinguish: not the one with the smallest loss is taken, but
    // a stronger one.
    let mut stronger = 0;
    for every in 3..9 {
        let wrong: Vec<usize> = y.iter().enumerate().map(|(i, c)| (c + usize::from(i % every == 0)) % 3).collect();
        let choice = choose(&wrong);
        let least = choice.tried.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
        let taken = choice.tried.iter().find(|t| t.l2 == choice.l2).unwrap();
        assert!(choice.l2 >= least.l2 && taken.loss < 1.5 * least.loss, "{:?} of {:?}", choice.l2, choice.tried);
        stronger += usize::from(choice.l2 > least.l2);
    }
    assert!(stronger > 0);
    let targets = classes(&y);
    let data = HeadData { features: x.view(), base: None, targets: &targets, weights: &weights };
    assert!(head.choose_l2(&data, &[0; 60], &L2_GRID, &SolveOptions::default()).is_err());
    assert!(head.choose_l2(&data, &folds, &[], &SolveOptions::default()).is_err());
}

#[test]
fn the_plain_strength_stays_unless_another_is_clearly_better() {
    let (x, y) = golden();
    let weights = vec![1.0; 60];
    let folds: Vec<u32> = (0..60).map(|i| i / 4 % 5).collect();
    let head = Head::new(4, 0, 3, true).unwrap();
    let solved = |x: &Array2<f32>, y: &[usize]| {
        let targets = classes(y);
        let data = HeadData { features: x.view(), base: None, targets: &targets, weights: &weights };
        let choice = head.choose_l2_or_plain(&data, &folds, &L2_GRID, &SolveOptions::default()).unwrap();
        let mut head = head.clone();
        head.solve(&data, &SolveOptions { l2: choice.l2, tolerance: 1e-6, ..SolveOptions::default() }).unwrap();
        let mut plain = head.clone();
        plain.solve(&data, &SKLEARN).unwrap();
        (choice, head.forward(x.view(), None).unwrap(), plain.forward(x.view(), None).unwrap())
    };
    // Half of the labels are wrong, so that strengths are hard to distinguish: the head is then scikit-learn's with C
    // = 1.
    let noisy: Vec<usize> = y.iter().enumerate().map(|(i, c)| (c + usize::from(i % 2 == 0)) % 3).collect();
    let (choice, logits, plain) = solved(&x, &noisy);
    assert_eq!(choice.l2, choice.tried[0].l2);
    for (z, expected) in logits.rows().into_iter().zip(plain.rows()) {
        assert!((1..3).all(|c| ((z[c] - z[0]) - (expected[c] - expected[0])).abs() < 0.02), "{z} {expected}");
    }
    // Features of a thousandth the size: with C = 1 next to nothing would be learnt.
    let (choice, logits, plain) = solved(&(&x * 1e-3), &y);
    assert!(choice.l2 < 1e-3 * choice.tried[0].l2, "{} of {:?}", choice.l2, choice.tried);
    assert!(accuracy(&logits, &y) > accuracy(&plain, &y) + 0.1, "{}", accuracy(&plain, &y));
}

#[test]
fn bad_input_is_refused() {
    let (x, y) = golden();
    let (targets, weights) = (classes(&y), vec![1.0; 60]);
    let mut head = Head::new(4, 0, 3, true).unwrap();
    let data = HeadData { features: x.view(), base: None, targets: &targets, weights: &weights };
    assert!(head.solve(&HeadData { targets: &targets[1..], ..data }, &SKLEARN).is_err());
    assert!(head.solve(&HeadData { weights: &[0.0; 60], ..data }, &SKLEARN).is_err());
    assert!(head.solve(&data, &SolveOptions { l2: f32::NAN, ..SKLEARN }).is_err());
    let nan = x.mapv(|v| if v > 1.0 { f32::NAN } else { v });
    assert!(head.solve(&HeadData { features: nan.view(), ..data }, &SKLEARN).is_err());
}

/// `cargo test --release solve -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a check"]
fn measure() {
    for (n, d, k, base_classes) in [(312, 384, 39, 0), (200, 1280, 10, 0), (200, 1280, 1010, 1000), (65, 128, 6, 6)] {
        let y: Vec<usize> = (0..n).map(|i| k - 1 - i % k.min(39)).collect();
        let noise = |i: usize, j: usize| ((i * 7919 + j * 104_729 + i * j * 31) % 1009) as f32 / 1009.0 - 0.5;
        let x = Array2::from_shape_fn((n, d), |(i, j)| noise(i, j) + 0.5 * noise(y[i] + 5000, j));
        let base = Array2::from_shape_fn((n, base_classes), |(i, j)| noise(j, i) * 8.0);
        let base = (base_classes > 0).then(|| base.view());
        let (targets, weights) = (classes(&y), vec![1.0; n]);
        let folds: Vec<u32> = (0..n).map(|i| (i / 8 % 5) as u32).collect();
        let data = HeadData { features: x.view(), base, targets: &targets, weights: &weights };
        let mut head = Head::new(d, base_classes, k, base_classes < 100).unwrap();
        for l2 in [1.0, 0.1, 0.01] {
            let t = std::time::Instant::now();
            let solved = head.solve(&data, &SolveOptions { l2, ..Default::default() }).unwrap();
            let seconds = t.elapsed().as_secs_f64();
            let right = accuracy(&head.forward(x.view(), base).unwrap(), &y);
            println!("{n}x{d}x{k} l2 {l2}: {:.0} ms {solved:?} {right:.3}", seconds * 1e3);
        }
        let t = std::time::Instant::now();
        let chosen = head.choose_l2(&data, &folds, &L2_GRID, &SolveOptions::default()).unwrap();
        println!(
            "  choice of l2: {:.0} ms {:.3} {:?} {:?}",
            t.elapsed().as_secs_f64() * 1e3,
            accuracy(&chosen.held_out, &y),
            chosen.l2,
            chosen.tried
        );
    }
}
