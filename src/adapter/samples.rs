//! Adapters for tests; the fixtures are made of them.

use super::*;

pub(crate) fn tensor(shape: &[usize], seed: f32) -> DenseTensor {
    let n: usize = shape.iter().product();
    // Exact on every machine: the fixtures depend on it.
    let value = |i: usize| ((i * 37 + 11) % 128) as f32 / 64.0 - 1.0 + seed;
    DenseTensor { shape: shape.to_vec(), data: (0..n).map(value).collect() }
}

/// A small adapter with one site of each kind and a grown head.
pub(crate) fn adapter(parent: u64) -> Adapter {
    let verdict = Verdict {
        promoted: true,
        base_accuracy: 0.75,
        before: 0.75,
        after: 0.875,
        n: 64,
        p_value: 0.0078125,
        power: 0.9,
        retention: 0.98,
        retention_n: 200,
        depth: Depth::AllSites,
        reason: "better on 8 of 64 held-out items, worse on none".into(),
    };
    Adapter {
        base: Fingerprint::of(b"a model"),
        task: "classification".into(),
        labels: ["walk", "sit", "stand", "cycle"].map(String::from).to_vec(),
        sites: vec![
            SiteDelta {
                name: "block.0/Conv".into(),
                kind: SiteKind::Conv,
                rank: 2,
                alpha: 4.0,
                a: tensor(&[2, 3, 5], 0.1),
                b: tensor(&[7, 2], 0.2),
            },
            SiteDelta {
                name: "head/Gemm".into(),
                kind: SiteKind::Linear,
                rank: 4,
                alpha: 8.0,
                a: tensor(&[13, 4], 0.3),
                b: tensor(&[4, 3], 0.4),
            },
        ],
        head: Some(HeadDelta {
            features: 13,
            base_classes: 3,
            classes: 4,
            pooling: Pooling::Mean,
            columns: vec![1, 3],
            normalised: false,
            weight: tensor(&[13, 2], 0.5),
            bias: vec![0.25, -0.5],
        }),
        lineage: Lineage {
            parent,
            seed: 7,
            steps: 120,
            examples: 48,
            depth: Depth::AllSites,
            created_ms: 1_760_000_000_000,
            learning_rate: 1e-3,
            rank: 4,
        },
        verdict,
        calibrated: Calibrated { temperature: 1.5 },
        known: Some(KnownInputs {
            centre: tensor(&[13], 0.6).data,
            classes: vec![0, 2],
            means: tensor(&[2, 13], 0.7),
            scores: tensor(&[24], 1.0).data,
        }),
        confusions: Some(Confusions::of(
            [(0, 3), (2, 1)].map(|(answered, right)| Confusion {
                answered,
                right,
                base_margin: 1.25,
                adapter_margin: 0.5,
            }),
            1.0,
        )),
    }
}

/// A sample that fills about 4 KiB.
pub(crate) fn larger() -> Adapter {
    let mut adapter = adapter(3);
    let site = &mut adapter.sites[1];
    site.a = tensor(&[200, 4], 0.3);
    adapter
}
