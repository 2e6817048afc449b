//! Large tensors of an ONNX file, left where they are until they are used.
//!
//! `parse` reads the graph without them: a tensor then says where its values are, as one with external data does.
//! Passes over the ONNX graph read such values by [`raw`]. What is left when the graph goes to the runtime becomes a
//! node ([`as_nodes`]) whose tensor is made once and shared by all graphs that are read from the file. In a home it
//! is used from the file itself (`mapped`).

mod aligned;
mod mapped;
#[cfg(test)]
mod tests;
mod thin;
mod wire;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use memmap2::Mmap;
use tract_core::internal::*;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

pub(crate) use aligned::Piece;
pub(crate) use mapped::{have_same_pages, in_shape, is_mapped, sweep};
pub(super) use wire::LARGE;

use super::onnx;
use crate::adapter::Fingerprint;
use crate::error::{Error, Result};
use crate::ops::SharedBytes;

/// The operator of a weight that the runtime gets from a [`Store`].
pub(super) const STORED: &str = "AcclimateStored";

/// The operator of a weight that stays as narrow as it is stored: it reads its [`Store`] itself.
pub(super) const NARROW: &str = "AcclimateWeight";

/// Where a model's bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// A file that is read.
    File(File),
    /// A file whose pages are used in place, and its map.
    Mapped(Arc<File>, Arc<Mmap>),
    /// Memory.
    Bytes(Arc<[u8]>),
}

impl Source {
    fn read(&self, place: &Range<u64>) -> Option<Vec<u8>> {
        let length = usize::try_from(place.end.checked_sub(place.start)?).ok()?;
        match self {
            Source::File(file) => read_at(file, place.start, length),
            Source::Mapped(file, _) => read_at(file, place.start, length),
            Source::Bytes(all) => Some(all.get(range(place)?)?.to_vec()),
        }
    }

    fn tensor(&self, place: &Range<u64>, shape: &[usize]) -> TractResult<Arc<Tensor>> {
        let kind = f32::datum_type();
        let takes = shape.iter().try_fold(kind.size_of() as u64, |all, d| all.checked_mul(*d as u64));
        ensure!(takes == Some(place.end - place.start), "a weight of shape {shape:?} in {place:?}");
        match self {
            Source::File(file) => Ok(mapped::read(file, place.start, shape)?.into_arc_tensor()),
            Source::Mapped(file, _) => mapped::tensor(file, place.start, shape),
            Source::Bytes(all) => {
                let mut tensor = Tensor::zero::<f32>(shape)?;
                let bytes = range(place).and_then(|place| all.get(place)).context("a weight beyond the file")?;
                tensor.as_bytes_mut().copy_from_slice(bytes);
                Ok(tensor.into_arc_tensor())
            }
        }
    }
}

fn read_at(file: &File, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn range(place: &Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(place.start).ok()?..usize::try_from(place.end).ok()?)
}

/// The large tensors of one model. Tensors of its graph refer to it by its name.
#[derive(Debug)]
pub(super) struct Store {
    name: String,
    sources: Mutex<Vec<Arc<Source>>>,
    made: Mutex<HashMap<Place, Arc<Tensor>>>,
    /// Bytes of narrow weights.
    shared: Mutex<HashMap<Place, SharedBytes>>,
}

/// A place in a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    source: usize,
    bytes: Range<u64>,
}

/// The stores of models that are being read, or may be read again.
static STORES: LazyLock<Mutex<HashMap<String, Weak<Store>>>> = LazyLock::new(Mutex::default);

impl Store {
    pub fn new() -> Result<Arc<Store>> {
        // No file can name a store: it cannot know what these bytes will be.
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| Error::internal("cannot get random bytes").because(e))?;
        let name = format!("{:032x}", u128::from_le_bytes(random));
        let (sources, made, shared) = Default::default();
        let store = Arc::new(Store { name: name.clone(), sources, made, shared });
        sweep();
        locked(&STORES).insert(name, Arc::downgrade(&store));
        Ok(store)
    }

    /// Adds a source; the result is its number.
    pub fn add(&self, source: Source) -> usize {
        let mut sources = locked(&self.sources);
        sources.push(Arc::new(source));
        sources.len() - 1
    }

    /// Makes `t` refer to bytes of a source.
    pub fn refer(&self, t: &mut TensorProto, source: usize, bytes: Range<u64>) {
        let entry = |(key, value)| StringStringEntryProto { key, value };
        t.external_data = self.entries(source, bytes).into_iter().map(entry).collect();
        t.data_location = Some(DataLocation::External as i32);
    }

    fn entries(&self, source: usize, bytes: Range<u64>) -> Vec<(String, String)> {
        let number = |key: &str, value: u64| (key.to_string(), value.to_string());
        let length = bytes.end - bytes.start;
        vec![
            ("location".into(), self.name.clone()),
            number("source", source as u64),
            number("offset", bytes.start),
            number("length", length),
        ]
    }

    fn read(&self, place: &Place) -> Option<Vec<u8>> {
        let source = Arc::clone(locked(&self.sources).get(place.source)?);
        source.read(&place.bytes)
    }

    /// The bytes at `place`, read at their first use.
    fn shared(&self, place: &Place) -> Option<SharedBytes> {
        let source = Arc::clone(locked(&self.sources).get(place.source)?);
        if let Source::Mapped(_, map) = &*source {
            return SharedBytes::mapped(Arc::clone(map), range(&place.bytes)?);
        }
        let mut shared = locked(&self.shared);
        if let Some(bytes) = shared.get(place) {
            return Some(bytes.clone());
        }
        let bytes: SharedBytes = source.read(&place.bytes)?.into();
        shared.insert(place.clone(), bytes.clone());
        Some(bytes)
    }

    /// The tensor at `place`, made at its first use.
    fn tensor(&self, place: &Place, shape: &[usize]) -> TractResult<Arc<Tensor>> {
        let source = locked(&self.sources).get(place.source).cloned().context("a weight of no file")?;
        let mut made = locked(&self.made);
        if let Some(tensor) = made.get(place).filter(|t| t.shape() == shape) {
            return Ok(Arc::clone(tensor));
        }
        let tensor = source.tensor(&place.bytes, shape)?;
        made.insert(place.clone(), Arc::clone(&tensor));
        Ok(tensor)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        locked(&STORES).remove(&self.name);
        locked(&self.made).clear();
        sweep();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store that `t` refers to, and the place in it; none if it holds its values, or has them in a file of its own.
fn referred(t: &TensorProto) -> Option<(Arc<Store>, Place)> {
    if t.data_location != Some(DataLocation::External as i32) {
        return None;
    }
    let entry = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let store = locked(&STORES).get(entry("location")?)?.upgrade()?;
    let number = |key: &str| entry(key)?.parse::<u64>().ok();
    let (start, source) = (number("offset")?, usize::try_from(number("source")?).ok()?);
    Some((store, Place { source, bytes: start..start.checked_add(number("length")?)? }))
}

/// Whether the values of `t` are in a store.
pub(super) fn is_stored(t: &TensorProto) -> bool {
    referred(t).is_some()
}

/// The `raw_data` of `t`, wherever it is; empty if it lists its values. None if it cannot be read.
pub(super) fn raw(t: &TensorProto) -> Option<Cow<'_, [u8]>> {
    match referred(t) {
        Some((store, place)) => store.read(&place).map(Cow::Owned),
        None => Some(Cow::Borrowed(&t.raw_data)),
    }
}

/// [`raw`], in the map of its file if there is one.
pub(super) fn shared(t: &TensorProto) -> Option<SharedBytes> {
    match referred(t) {
        Some((store, place)) => store.shared(&place),
        None => Some(t.raw_data.clone().into()),
    }
}

/// Length of [`raw`].
pub(super) fn raw_len(t: &TensorProto) -> u64 {
    referred(t).map_or(t.raw_data.len() as u64, |(_, place)| place.bytes.end - place.bytes.start)
}

/// Gives `t` other values.
pub(super) fn set_raw(t: &mut TensorProto, bytes: Vec<u8>) {
    t.raw_data = bytes;
    t.data_location = None;
    t.external_data.clear();
}

/// A model's graph, and where its large tensors are.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub proto: ModelProto,
    pub store: Arc<Store>,
}

/// Parses the model in `bytes`, which are those of `source` from its start. Large tensors of the graph stay in it.
///
/// # Errors
/// As [`onnx::parse`].
pub(super) fn parse(bytes: &[u8], source: Source) -> Result<Parsed> {
    let store = Store::new()?;
    let number = store.add(source);
    let mut mark = |place: Range<usize>| store.entries(number, place.start as u64..place.end as u64);
    let proto = match thin::thin(bytes, &mut mark) {
        Some(small) => onnx::parse(&small)?,
        None => onnx::parse(bytes)?,
    };
    Ok(Parsed { proto, store })
}

/// [`parse`] of a model in memory.
pub(super) fn parse_bytes(bytes: &[u8]) -> Result<Parsed> {
    parse(bytes, Source::Bytes(bytes.into()))
}

/// The hash of the model in `bytes`: of its original, if it was laid out for mapping.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    for piece in original(bytes) {
        match piece {
            Piece::New(new) => hasher.update(&new),
            Piece::Copy(place) => hasher.update(&bytes[place]),
        };
    }
    Fingerprint(*hasher.finalize().as_bytes())
}

/// [`fingerprint`] of the file whose map `bytes` is; it is read anew, so that its pages do not count as the process's.
pub(super) fn fingerprint_of_file(bytes: &[u8], file: &File) -> std::io::Result<Fingerprint> {
    const AT_ONCE: usize = 1 << 20;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; AT_ONCE.min(bytes.len())]);
    for piece in original(bytes) {
        match piece {
            Piece::New(new) => {
                hasher.update(&new);
            }
            Piece::Copy(place) => {
                for start in place.clone().step_by(AT_ONCE) {
                    let part = &mut buffer[..AT_ONCE.min(place.end - start)];
                    file.read_exact_at(part, start as u64)?;
                    hasher.update(part);
                }
            }
        }
    }
    Ok(Fingerprint(*hasher.finalize().as_bytes()))
}

/// The pieces of what the model in `bytes` was made from: itself, if it was not laid out for mapping.
fn original(bytes: &[u8]) -> Vec<Piece> {
    aligned::original(bytes).unwrap_or_else(|| vec![Piece::Copy(0..bytes.len())])
}

/// The pieces of a form of the model in `bytes` whose large tensors can be used in place, and which [`fingerprint`]
/// takes for the same model. None where there is nothing to gain.
pub(crate) fn align(bytes: &[u8]) -> Option<Vec<Piece>> {
    aligned::aligned(bytes)
}

/// Whether the model in `bytes` was [`align`]ed.
pub(super) fn is_aligned(bytes: &[u8]) -> bool {
    aligned::original(bytes).is_some()
}

/// Makes of the graph's tensors in a store what the runtime takes: large matrices of floats become nodes, others get
/// their values back. Narrow weights have nodes that read the store.
pub(super) fn as_nodes(graph: &mut GraphProto) {
    let listed = |name: &str| graph.input.iter().chain(&graph.output).any(|v| v.name == name);
    let (mut kept, mut nodes) = (vec![], vec![]);
    for mut t in std::mem::take(&mut graph.initializer) {
        if is_float(&t) && !listed(&t.name) {
            nodes.push(node(t.name.clone(), t.name.clone(), t));
        } else {
            inline(&mut t);
            kept.push(t);
        }
    }
    graph.initializer = kept;
    for n in &mut graph.node {
        let value = n.attribute.iter().position(|a| a.name == "value" && a.t.as_ref().is_some_and(is_float));
        if let (Some(at), "Constant", [output]) = (value, n.op_type.as_str(), &n.output[..])
            && let Some(t) = n.attribute[at].t.take()
        {
            *n = node(n.name.clone(), output.clone(), t);
        } else if n.op_type != STORED && n.op_type != NARROW {
            n.attribute.iter_mut().flat_map(|a| a.t.iter_mut().chain(&mut a.tensors)).for_each(inline);
        }
    }
    graph.node.splice(0..0, nodes);
}

/// Gives every tensor of the graph that is in a store its values back.
pub(super) fn inline_all(graph: &mut GraphProto) {
    for n in graph.node.iter_mut().filter(|n| n.op_type == STORED) {
        n.op_type = "Constant".into();
    }
    graph.initializer.iter_mut().for_each(inline);
    graph.node.iter_mut().flat_map(|n| &mut n.attribute).flat_map(|a| a.t.iter_mut()).for_each(inline);
}

fn is_float(t: &TensorProto) -> bool {
    t.data_type == DataType::Float as i32 && t.dims.iter().all(|d| *d > 0) && is_stored(t)
}

fn inline(t: &mut TensorProto) {
    if is_stored(t)
        && let Some(bytes) = raw(t).map(Cow::into_owned)
    {
        set_raw(t, bytes);
    }
}

fn node(name: String, output: String, t: TensorProto) -> NodeProto {
    let (value, tensor) = ("value".to_string(), AttributeType::Tensor as i32);
    let attribute = vec![AttributeProto { name: value, r#type: tensor, t: Some(t), ..AttributeProto::default() }];
    NodeProto { name, op_type: STORED.into(), output: vec![output], attribute, ..NodeProto::default() }
}

/// The operator's reader.
pub(super) fn load(
    _: &tract_onnx::model::ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let t = node.attribute.iter().find_map(|a| a.t.as_ref()).context("a stored weight without a tensor")?;
    let (store, place) = referred(t).context("a weight of a model that is closed")?;
    let shape: TVec<usize> = t.dims.iter().map(|&d| Ok(usize::try_from(d)?)).collect::<TractResult<_>>()?;
    Ok((expand(Weight(store.tensor(&place, &shape)?)), vec![]))
}

/// A stored weight in a graph whose types are not known yet. Its values are not: the runtime would compute with them at
/// once what depends on nothing else, and hold the results.
#[derive(Debug, Clone)]
struct Weight(Arc<Tensor>);

impl Expansion for Weight {
    fn name(&self) -> StaticName {
        STORED.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        _inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let shape: TVec<TDim> = self.0.shape().iter().map(|d| d.to_dim()).collect();
        s.equals(&outputs[0].datum_type, self.0.datum_type())?;
        s.equals(&outputs[0].shape, shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, _inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        Ok(tvec!(model.add_const(prefix, Arc::clone(&self.0))?))
    }
}
