//! Operators of pictures.

use tract_core::internal::*;
use tract_core::ops::array::{MultiBroadcastTo, ScatterNd, ScatterReduction, Slice};
use tract_core::ops::einsum::EinSum;

use super::{Form, Wiring, axis_of, bounded};

/// The middle of `x`, or `x` in the middle of zeros, axis by axis.
pub(super) fn center_crop_pad(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (mut x, sizes) = (w.input(0)?, w.input(1)?);
    let (rank, sizes) = (w.rank(x)?, w.integers(sizes)?);
    let axes: TVec<usize> = match form.ints("axes") {
        Some(axes) => axes.iter().map(|a| axis_of(*a, rank)).collect::<TractResult<_>>()?,
        None => (0..rank).collect(),
    };
    ensure!(sizes.len() == axes.len() && sizes.iter().all(|s| *s > 0), "its sizes are {sizes:?}");
    for (axis, size) in axes.into_iter().zip(sizes) {
        let have = w.shape(x)?[axis].to_i64().with_context(|| format!("the length of axis {axis} is open"))?;
        // What is odd goes to the end.
        let before = if size < have { -((have - size) / 2) } else { (size - have) / 2 };
        x = w.fit(x, axis, before, usize::try_from(size)?)?;
    }
    Ok(tvec!(x))
}

/// `grid = [x, y, 1]·θᵀ` (or `[x, y, z, 1]·θᵀ`), of coordinates from -1 to 1.
pub(super) fn affine_grid(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (theta, size) = (w.input(0)?, w.input(1)?);
    let size = w.integers(size)?;
    ensure!(matches!(size.len(), 4 | 5) && size.iter().all(|s| *s > 0), "its size is {size:?}");
    let size: TVec<usize> = size[2..].iter().map(|s| Ok(usize::try_from(*s)?)).collect::<TractResult<_>>()?;
    let (axes, places) = (size.len(), bounded(&size)?);
    bounded(&[places, axes + 1])?;
    let corners = form.int("align_corners", 0) != 0;
    let coordinate = |at: usize, of: usize| match (corners, of) {
        (true, 1) => -1.0,
        (true, _) => 2.0 * at as f32 / (of - 1) as f32 - 1.0,
        (false, _) => (2 * at + 1) as f32 / of as f32 - 1.0,
    };
    let mut base = Vec::with_capacity(places * (axes + 1));
    for mut place in 0..places {
        for &of in size.iter().rev() {
            base.push(coordinate(place % of, of));
            place /= of;
        }
        base.push(1.0);
    }
    let kind = w.fact(theta)?.datum_type;
    let base = Tensor::from_shape(&[places, axes + 1], &base)?.cast_to_dt(kind)?.into_owned();
    let base = w.constant(base)?;
    let grid = w.wire(EinSum::new("pk,nik->npi".parse()?, kind), &[base, theta])?;
    let apart = size.iter().map(|s| s.to_dim()).collect();
    Ok(tvec!(w.wire(AxisOp::Reshape(1, tvec!(places.to_dim()), apart), &[grid])?))
}

/// Blocks of a picture as channels, the places of a block before its channels or, of opset 26 on, after them.
pub(super) fn space_to_depth(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let x = w.input(0)?;
    let shape = w.shape(x)?;
    let block =
        usize::try_from(form.int("blocksize", 0)).ok().filter(|b| *b > 0).context("its blocksize is missing")?;
    ensure!(shape.len() == 4, "its input has {} axes", shape.len());
    let (rows, columns, b) = (shape[2].clone(), shape[3].clone(), block.to_dim());
    for size in [&rows, &columns] {
        ensure!(size.to_usize().map_or(true, |n| n % block == 0), "blocks of {block} of a side of {size}");
    }
    let behind = match form.text("mode").unwrap_or("DCR") {
        "DCR" => 0,
        "CRD" => 1,
        mode => bail!("its mode is {mode:?}"),
    };
    let x = w.wire(AxisOp::Reshape(3, tvec!(columns.clone()), tvec!(columns / block, b.clone())), &[x])?;
    let x = w.wire(AxisOp::Reshape(2, tvec!(rows.clone()), tvec!(rows / block, b.clone())), &[x])?;
    // From channels, rows, places in a row, columns, places in a column.
    let x = w.wire(AxisOp::Move(3, 1 + behind), &[x])?;
    let x = w.wire(AxisOp::Move(5, 2 + behind), &[x])?;
    let (mut parts, channels) = (tvec!(b.clone(), b.clone()), shape[1].clone());
    parts.insert(if behind == 0 { 2 } else { 0 }, channels.clone());
    Ok(tvec!(w.wire(AxisOp::Reshape(1, parts, tvec!(channels * block * block)), &[x])?))
}

/// Adds up the columns of blocks where they lie in the picture, as the gradient of taking it apart into them does.
pub(super) fn col2im(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (x, image, block) = (w.input(0)?, w.input(1)?, w.input(2)?);
    let sizes = |values: Vec<i64>| {
        ensure!(values.iter().all(|v| *v > 0), "its sizes are {values:?}");
        values.iter().map(|v| Ok(usize::try_from(*v)?)).collect::<TractResult<TVec<usize>>>()
    };
    let (image, block) = (sizes(w.integers(image)?)?, sizes(w.integers(block)?)?);
    let axes = image.len();
    ensure!(block.len() == axes && w.rank(x)? == 3, "blocks {block:?} of a picture {image:?}");
    let (strides, dilations) = (form.sizes("strides", axes)?, form.sizes("dilations", axes)?);
    let pads = form.ints("pads").map_or_else(|| vec![0; 2 * axes], <[i64]>::to_vec);
    ensure!(pads.len() == 2 * axes && pads.iter().all(|p| *p >= 0), "its pads are {pads:?}");
    // The number of blocks along each axis.
    let mut blocks: TVec<usize> = tvec!();
    for axis in 0..axes {
        let reach = (block[axis] - 1).checked_mul(dilations[axis]).context("a large block")?;
        let padded = usize::try_from(pads[axis].saturating_add(pads[axes + axis]))?.saturating_add(image[axis]);
        let room =
            padded.checked_sub(1).and_then(|p| p.checked_sub(reach)).context("a block larger than the picture")?;
        blocks.push(room / strides[axis] + 1);
    }
    let (places, each, count) = (bounded(&image)?, bounded(&block)?, bounded(&blocks)?);
    bounded(&[each, count])?;
    let columns = w.shape(x)?;
    let channels = columns[1].to_usize().context("its number of channels is open")?;
    ensure!(channels % each == 0, "{channels} rows of blocks of {each}");
    ensure!(columns[2].to_usize().is_ok_and(|l| l == count), "{} blocks, not {count}", columns[2]);
    let channels = channels / each;
    // The place that every value goes to; what lies beyond the border goes to one more, which is cut off.
    let at = |mut row: usize, mut column: usize| {
        let (mut flat, mut step) = (0, 1);
        for axis in (0..axes).rev() {
            let within = (column % blocks[axis] * strides[axis] + row % block[axis] * dilations[axis]) as i64;
            let place = usize::try_from(within - pads[axis]).ok().filter(|p| *p < image[axis])?;
            flat += place * step;
            (row, column, step) = (row / block[axis], column / blocks[axis], step * image[axis]);
        }
        Some(flat)
    };
    let index = (0..each).flat_map(|row| (0..count).map(move |column| (row, column)));
    let index: Vec<i64> = index.map(|(row, column)| at(row, column).unwrap_or(places) as i64).collect();
    let index = w.constant(Tensor::from_shape(&[each * count, 1], &index)?)?;
    let apart = AxisOp::Reshape(1, tvec!((channels * each).to_dim()), tvec!(channels.to_dim(), each.to_dim()));
    let x = w.wire(apart, &[x])?;
    let flat = AxisOp::Reshape(2, tvec!(each.to_dim(), count.to_dim()), tvec!((each * count).to_dim()));
    let x = w.wire(flat, &[x])?;
    let x = w.wire(AxisOp::Move(2, 0), &[x])?;
    let zero = w.scalar(x, 0.0)?;
    let shape: TVec<TDim> = tvec!((places + 1).to_dim(), columns[0].clone(), channels.to_dim());
    let zeros = w.wire(MultiBroadcastTo { shape: shape.into() }, &[zero])?;
    let y = w.wire(ScatterNd { reduction: ScatterReduction::Add }, &[zeros, index, x])?;
    let y = w.wire(Slice::new(0, 0, places), &[y])?;
    let y = w.wire(AxisOp::Move(0, 2), &[y])?;
    let apart = image.iter().map(|s| s.to_dim()).collect();
    Ok(tvec!(w.wire(AxisOp::Reshape(2, tvec!(places.to_dim()), apart), &[y])?))
}
