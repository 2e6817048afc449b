//! The frozen weights of sites, as matrices.

use tract_core::internal::*;

use super::graph::{by_name, find_sites};
use crate::adapter::SiteKind;
use crate::base::{Base, guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::constant;
use crate::sites::{Found, floats};

/// A frozen weight, row by row: `[in, out]` of a linear site, `[out, in/groups·taps]` of a convolution. A quantised
/// one is what its numbers stand for.
pub(crate) struct SiteWeight {
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f32>,
}

/// What `each` makes of the weights of these sites, in order: one of them is held at a time.
///
/// # Errors
/// When there is no site of a name, or a site's weight is no such matrix; and those of `each`.
pub(crate) fn site_weights<'a, T>(
    base: &Base,
    names: impl Iterator<Item = &'a str>,
    mut each: impl FnMut(SiteWeight) -> Result<T>,
) -> Result<Vec<T>> {
    let model = base.concrete(&base.bucket(1, 16))?;
    let (found, _) = find_sites(&model, base)?;
    let weight = |name: &str| {
        guarded(ErrorKind::UnsupportedModel, "cannot read a weight", || {
            let found = by_name(&found, name)?;
            (found.site.kind != SiteKind::ConvTranspose).then(|| matrix(&model, found)).transpose()
        })
    };
    let none = |name: &str| {
        Error::unsupported("a transposed convolution has no PiSSA start")
            .at(name)
            .hint("leave it out of the home's `sites`, or choose init_lora_weights = true")
    };
    names.map(|name| each(weight(name)?.ok_or_else(|| none(name))?)).collect()
}

fn matrix(model: &TypedModel, found: &Found) -> TractResult<SiteWeight> {
    let outlet = model.node(found.node).inputs[found.weight_slot];
    let weight = constant(model, outlet)?.context("the weight is not a constant")?;
    let (shape, from) = (weight.shape(), floats(&weight)?);
    if found.site.kind == SiteKind::Conv {
        return Ok(SiteWeight { rows: shape[0], cols: shape[1..].iter().product(), values: from.to_vec() });
    }
    let (k, n) = found.weight_axes;
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let (rows, cols, down, along) = (shape[k], shape[n], stride(k), stride(n));
    let values = (0..rows * cols).map(|at| from[at / cols * down + at % cols * along]).collect();
    Ok(SiteWeight { rows, cols, values })
}
