//! A model's graph without its large tensors, which stay where they are.

use std::ops::Range;

use prost::Message as _;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{StringStringEntryProto, TensorProto};

use super::wire::{Field, Message, RAW_DATA, fields, key, shortest};

/// `TensorProto.external_data` and `TensorProto.data_location`, which say that its values are elsewhere.
const EXTERNAL_DATA: u32 = 13;
const DATA_LOCATION: u32 = 14;

/// The file in `bytes` with the values of its large tensors left out; `mark` gives what is to stand for those at a
/// place. None if it is not so plainly written that this is safe.
pub(super) fn thin(bytes: &[u8], mark: &mut dyn FnMut(Range<usize>) -> Vec<(String, String)>) -> Option<Vec<u8>> {
    message(bytes, 0..bytes.len(), Message::Model, mark)
}

fn message(
    bytes: &[u8],
    within: Range<usize>,
    kind: Message,
    mark: &mut dyn FnMut(Range<usize>) -> Vec<(String, String)>,
) -> Option<Vec<u8>> {
    let all = fields(bytes, within)?;
    if kind == Message::Tensor {
        return tensor(bytes, &all, mark);
    }
    let mut out = vec![];
    let mut tensors = 0;
    for field in &all {
        match kind.inside(field) {
            Some(child) => {
                // Of two tensors of one attribute, the second would be merged into the first.
                tensors += usize::from(child == Message::Tensor && kind == Message::Attribute);
                let inner = message(bytes, field.value.clone(), child, mark)?;
                out.extend(key(field.number));
                out.extend(shortest(inner.len()));
                out.extend(inner);
            }
            None => out.extend(&bytes[field.whole.clone()]),
        }
    }
    (tensors < 2).then_some(out)
}

fn tensor(bytes: &[u8], all: &[Field], mark: &mut dyn FnMut(Range<usize>) -> Vec<(String, String)>) -> Option<Vec<u8>> {
    let mut out = vec![];
    let raws = all.iter().filter(|f| f.number == RAW_DATA).count();
    // Written by who takes a model with external data into one file: the values are here.
    let here = |f: &Field| {
        f.number == DATA_LOCATION && !f.delimited && bytes[f.value.clone()] == [DataLocation::Default as u8]
    };
    let elsewhere = |f: &Field| f.number == EXTERNAL_DATA || f.number == DATA_LOCATION && !here(f);
    let has_large = all.iter().any(|f| Message::Tensor.is_large_raw(f));
    for field in all.iter().filter(|f| !has_large || !here(f)) {
        if !Message::Tensor.is_large_raw(field) {
            out.extend(&bytes[field.whole.clone()]);
            continue;
        }
        if raws > 1 || all.iter().any(elsewhere) {
            return None;
        }
        let entries = mark(field.value.clone()).into_iter();
        let external_data = entries.map(|(key, value)| StringStringEntryProto { key, value }).collect();
        let data_location = Some(DataLocation::External as i32);
        out.extend(TensorProto { external_data, data_location, ..TensorProto::default() }.encode_to_vec());
    }
    Some(out)
}
