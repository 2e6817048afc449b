//! Reading and writing by index, repeating, sums along an axis.

use tract_core::ops::array::{
    CumSum, Gather, GatherElements, GatherNd, ScatterElements, ScatterNd, ScatterReduction, Tile, Topk, Trilu,
};

use super::*;

#[test]
fn gathers() {
    for axis in 0..3 {
        check("gather", &[&[5, 5, 5]], &|m, x| {
            let index = m.add_const("index", tensor1(&[4i64, 0, 4, -2]))?;
            wire(m, Gather::new(axis), &[x[0], index])
        });
    }
    let index = tensor2(&[[2i64, 0, 2, 1], [0, 0, 1, 2]]);
    check("gather elements", &[&[3, 4]], &|m, x| {
        let index = m.add_const("index", index.clone())?;
        wire(m, GatherElements { axis: 0 }, &[x[0], index])
    });
    check("gather elements", &[&[2, 3]], &|m, x| {
        let index = m.add_const("index", index.clone())?;
        wire(m, GatherElements { axis: 1 }, &[x[0], index])
    });
    check("gather nd", &[&[3, 4, 2]], &|m, x| {
        let index = m.add_const("index", tensor2(&[[0i32, 1], [2, 3], [0, 1]]))?;
        wire(m, GatherNd { batch_dims: 0 }, &[x[0], index])
    });
}

#[test]
fn gathers_within_batch_axes() {
    check("gather nd", &[&[2, 3, 4, 2]], &|m, x| {
        let index = Tensor::from_shape(&[2, 3, 1], &[0i32, 3, 0, 1, 2, 2])?;
        let index = m.add_const("index", index)?;
        wire(m, GatherNd { batch_dims: 2 }, &[x[0], index])
    });
    check("gather nd", &[&[2, 3, 4]], &|m, x| {
        let index = Tensor::from_shape(&[2, 2, 2], &[0i32, 3, 2, 1, 0, 3, 0, 3])?;
        let index = m.add_const("index", index)?;
        wire(m, GatherNd { batch_dims: 1 }, &[x[0], index])
    });
}

#[test]
fn scatters() {
    for reduction in [ScatterReduction::None, ScatterReduction::Add] {
        check("scatter elements", &[&[3, 4], &[2, 4]], &|m, x| {
            let index = m.add_const("index", tensor2(&[[2i64, 0, 2, 1], [0, 1, 1, 2]]))?;
            wire(m, ScatterElements { axis: 0, reduction }, &[x[0], index, x[1]])
        });
        check("scatter nd", &[&[3, 4, 2], &[2, 2]], &|m, x| {
            let index = m.add_const("index", tensor2(&[[0i64, 1], [2, 3]]))?;
            wire(m, ScatterNd { reduction }, &[x[0], index, x[1]])
        });
    }
}

#[test]
fn scatters_of_the_larger_or_smaller_value() {
    for reduction in [ScatterReduction::Max, ScatterReduction::Min] {
        check("scatter elements", &[&[3, 4], &[2, 4]], &|m, x| {
            let index = m.add_const("index", tensor2(&[[2i64, 0, 2, 1], [2, 1, 2, 2]]))?;
            wire(m, ScatterElements { axis: 0, reduction }, &[x[0], index, x[1]])
        });
        check("scatter nd", &[&[3, 4, 2], &[3, 2]], &|m, x| {
            let index = m.add_const("index", tensor2(&[[0i64, 1], [2, 3], [0, 1]]))?;
            wire(m, ScatterNd { reduction }, &[x[0], index, x[1]])
        });
    }
}

#[test]
fn the_largest() {
    for (axis, largest) in [(1, true), (0, false)] {
        check("topk", &[&[4, 5]], &|m, x| {
            let k = m.add_const("k", tensor0(2i64))?;
            wire(m, Topk { axis, largest, fallback_k: 2.to_dim() }, &[x[0], k])
        });
    }
}

#[test]
fn repeats_sums_and_triangles() {
    check("tile", &[&[2, 3]], &|m, x| wire(m, Tile { multipliers: tvec!(2.to_dim(), 3.to_dim()) }, x));
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        check("cumsum", &[&[2, 4, 3]], &|m, x| wire(m, CumSum { axis: 1, exclusive, reverse }, x));
    }
    for (upper, k) in [(true, 0), (false, 1), (true, -1)] {
        check("trilu", &[&[2, 4, 3]], &|m, x| {
            let k = m.add_const("k", tensor0(k as i64))?;
            wire(m, Trilu { upper }, &[x[0], k])
        });
    }
}
