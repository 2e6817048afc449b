//! The files of `gradcheck --dump`: everything another framework needs to repeat the gradients.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::base::Base;
use crate::error::{Error, Result};
use crate::input::{ArrayData, NamedArray, write_npz};
use crate::tools::gradcheck::Gradients;

/// Writes `inputs.npz`, `cotangent.npz`, `outputs.npz`, `adapter.safetensors` and `gradients.safetensors` into `folder`.
pub(crate) fn write(base: &Base, folder: &Path, g: &Gradients, scale: f32) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("cannot create the dump folder", folder, e))?;
    let mut inputs = vec![];
    for (ix, port) in base.inputs().iter().enumerate() {
        let rows: Vec<&NamedArray> = g.examples.iter().filter_map(|e| e.arrays.get(ix)).collect();
        if let Some(stacked) = stack(&port.name, &rows) {
            inputs.push(stacked);
        }
    }
    write_npz(&folder.join("inputs.npz"), &inputs)?;
    let named = |values: &[ndarray::ArrayD<f32>]| -> Vec<NamedArray> {
        let pair = |(v, port): (&ndarray::ArrayD<f32>, &crate::base::Port)| NamedArray {
            name: port.name.clone(),
            shape: v.shape().to_vec(),
            data: ArrayData::F32(v.iter().copied().collect()),
        };
        values.iter().zip(base.outputs()).map(pair).collect()
    };
    write_npz(&folder.join("cotangent.npz"), &named(&g.cotangents))?;
    write_npz(&folder.join("outputs.npz"), &named(&g.outputs))?;
    let meta = HashMap::from([("scale".to_string(), scale.to_string())]);
    let factors = g.deltas.iter().flat_map(|d| {
        [
            (format!("{}.lora_A", d.name), &d.a.shape, &d.a.data[..]),
            (format!("{}.lora_B", d.name), &d.b.shape, &d.b.data[..]),
        ]
    });
    write_safetensors(&folder.join("adapter.safetensors"), factors, meta.clone())?;
    let gradients = g.deltas.iter().zip(&g.gradients).flat_map(|(d, (ga, gb))| {
        [(format!("{}.lora_A", d.name), &d.a.shape, &ga[..]), (format!("{}.lora_B", d.name), &d.b.shape, &gb[..])]
    });
    write_safetensors(&folder.join("gradients.safetensors"), gradients, meta)
}

fn stack(name: &str, rows: &[&NamedArray]) -> Option<NamedArray> {
    let first = rows.first()?;
    let shape = [&[rows.len()][..], &first.shape].concat();
    macro_rules! join {
        ($variant:ident) => {
            ArrayData::$variant(
                rows.iter()
                    .flat_map(|r| match &r.data {
                        ArrayData::$variant(v) => v.clone(),
                        _ => vec![],
                    })
                    .collect(),
            )
        };
    }
    let data = match &first.data {
        ArrayData::F32(_) => join!(F32),
        ArrayData::I64(_) => join!(I64),
        ArrayData::I32(_) => join!(I32),
        ArrayData::U8(_) => join!(U8),
    };
    Some(NamedArray { name: name.to_string(), shape, data })
}

fn write_safetensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a Vec<usize>, &'a [f32])>,
    meta: HashMap<String, String>,
) -> Result<()> {
    let failed = |e: String| Error::internal("cannot write a safetensors file").at(path.display()).because(e);
    let views = tensors
        .map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(data));
            view.map(|v| (name, v)).map_err(|e| failed(e.to_string()))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, Some(meta)).map_err(|e| failed(e.to_string()))?;
    std::fs::write(path, bytes).map_err(|e| Error::io("cannot write the dump", path, e))
}
