//! Products of integers, alone or with the scaling of their result.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::NodeProto;

use super::{Constants, Given, Lowering};

/// An integer product whose operand was quantised on the fly, with the scaling of its result that follows.
pub(super) struct DynamicProduct {
    /// Scale and zero point of the first operand, scale of the second.
    a: (String, String),
    b_scale: String,
    /// Name of the scaled result.
    result: String,
}

#[derive(Default)]
pub(super) struct Dynamic {
    pub products: HashMap<usize, DynamicProduct>,
    /// The nodes that convert and scale a product, which goes straight to floats.
    pub absorbed: HashSet<usize>,
}

/// Finds `Mul(Cast(MatMulInteger(a, b)), a_scale·b_scale)`, with `a` from a `DynamicQuantizeLinear` and `b_scale` a constant.
pub(super) fn dynamic_products(nodes: &[NodeProto], constants: &Constants) -> Dynamic {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut writers: HashMap<&str, usize> = HashMap::new();
    for (position, node) in nodes.iter().enumerate() {
        node.input.iter().for_each(|i| readers.entry(i).or_default().push(position));
        writers.extend(node.output.iter().map(|o| (o.as_str(), position)));
    }
    let only_reader = |name: &str, op: &str| match readers.get(name).map(Vec::as_slice) {
        Some(&[position]) if nodes[position].op_type == op => Some(position),
        _ => None,
    };
    let mut found = Dynamic::default();
    for (position, node) in nodes.iter().enumerate() {
        let product = || {
            let quantised = nodes.get(*writers.get(node.input.first()?.as_str())?)?;
            let [_, scale, zero] = &quantised.output[..] else { return None };
            if quantised.op_type != "DynamicQuantizeLinear" || node.input.get(2) != Some(zero) {
                return None;
            }
            let cast = only_reader(node.output.first()?, "Cast")?;
            let mul = only_reader(nodes[cast].output.first()?, "Mul")?;
            let factor = nodes[mul].input.iter().find(|i| **i != nodes[cast].output[0])?;
            let scales = nodes.get(*writers.get(factor.as_str())?).filter(|n| n.op_type == "Mul")?;
            let b_scale = scales.input.iter().find(|i| *i != scale && scales.input.contains(scale))?;
            constants.contains_key(b_scale.as_str()).then(|| {
                let result = nodes[mul].output.first().cloned().unwrap_or_default();
                let a = (scale.clone(), zero.clone());
                ((cast, mul), DynamicProduct { a, b_scale: b_scale.clone(), result })
            })
        };
        if node.op_type.ends_with("Integer")
            && let Some(((cast, mul), product)) = product()
        {
            found.absorbed.extend([cast, mul]);
            found.products.insert(position, product);
        }
    }
    found
}

/// `MatMulInteger`, `ConvInteger`
pub(super) fn integer_product(to: &mut Lowering, given: &Given) -> Option<()> {
    let op = given.node.op_type.strip_suffix("Integer")?;
    let axis = if op == "Conv" { 0 } else { -1 };
    let (a, b) = (given.input(0)?, given.input(1)?);
    let (a, b, result) = match given.product {
        Some(product) => {
            let b = to.dequantise(b, &product.b_scale, given.input(3), axis)?;
            (to.dequantise(a, &product.a.0, Some(&product.a.1), 1)?, b, product.result.as_str())
        }
        None => {
            let one = to.floats(&[1.0], &[]);
            let a = to.dequantise(a, &one, given.input(2), 1)?;
            (a, to.dequantise(b, &one, given.input(3), axis)?, given.output()?)
        }
    };
    let y = to.emit_main(op, &[a, b], &given.node.attribute);
    to.rename(&y, result)
}
