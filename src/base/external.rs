//! Weights that lie in files beside the model's: read into it when it is loaded, from its own folder and from nowhere else.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use prost::Message;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, TensorProto};

use super::onnx;
use super::stored::{self, Store};
use crate::error::{Error, Result};

/// Reads every tensor of `proto` that is stored in another file, relative to `folder`; whether there was one. Large
/// ones are left there, where a store may refer to them.
///
/// # Errors
/// `BadData`, naming the tensor: a place outside of `folder` or by way of a link, a file that has another name too, or other bytes
/// than the tensor's shape takes. `Io`.
pub(super) fn bring_in(proto: &mut ModelProto, folder: &Path, store: Option<&Store>) -> Result<bool> {
    let mut reader = Reader { folder, store, sources: HashMap::new() };
    proto.graph.as_mut().map_or(Ok(false), |graph| reader.graph(graph, true))
}

/// The model at `path` as one file that holds all of its weights.
///
/// # Errors
/// As [`bring_in`], and when the file is no ONNX model.
pub(crate) fn in_one_file(path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut proto = onnx::parse(bytes).map_err(|e| e.at(path.display()))?;
    bring_in(&mut proto, path.parent().unwrap_or(Path::new("")), None).map_err(|e| e.within(path.display()))?;
    Ok(proto.encode_to_vec())
}

/// What tensors are read from.
struct Reader<'a> {
    folder: &'a Path,
    store: Option<&'a Store>,
    /// The files that the store has, by their places.
    sources: HashMap<PathBuf, usize>,
}

impl Reader<'_> {
    /// Tensors of graphs within the `outer` one are always read.
    fn graph(&mut self, graph: &mut GraphProto, outer: bool) -> Result<bool> {
        let mut any = false;
        for t in &mut graph.initializer {
            any |= self.tensor(t, outer)?;
        }
        for a in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
            any |= self.attribute(a, outer)?;
        }
        Ok(any)
    }

    fn attribute(&mut self, a: &mut AttributeProto, outer: bool) -> Result<bool> {
        let mut any = false;
        for t in a.t.iter_mut().chain(&mut a.tensors) {
            any |= self.tensor(t, outer)?;
        }
        for g in a.g.iter_mut().chain(&mut a.graphs) {
            any |= self.graph(g, false)?;
        }
        Ok(any)
    }

    fn tensor(&mut self, t: &mut TensorProto, outer: bool) -> Result<bool> {
        if t.data_location != Some(DataLocation::External as i32) || stored::is_stored(t) {
            return Ok(false);
        }
        let entry = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let damaged = |what: String| Error::bad_data(what).at(&t.name).hint("export the model again");
        let number = |key: &str| match entry(key).map(str::parse::<u64>) {
            Some(Ok(n)) => Ok(Some(n)),
            None => Ok(None),
            Some(Err(_)) => Err(damaged(format!("the {key} of its external data is no number"))),
        };
        let location = entry("location").ok_or_else(|| damaged("it does not say where its external data is".into()))?;
        let path = place(self.folder, location).map_err(|e| e.at(&t.name))?;
        let takes = bytes_of(t)
            .ok_or_else(|| damaged(format!("external data of shape {:?} and type {}", t.dims, t.data_type)))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(takes));
        let cannot = |e| Error::io("cannot read the model's external data", &path, e);
        let file = File::open(&path).map_err(cannot)?;
        let held = file.metadata().map_err(cannot)?.len().saturating_sub(offset);
        if length != takes || takes > held {
            return Err(damaged(format!("its external data is {} bytes, not {takes}", held.min(length))));
        }
        if let Some(store) = self.store.filter(|_| outer && takes >= stored::LARGE as u64) {
            let source = *self.sources.entry(path).or_insert_with(|| store.add(stored::Source::File(file)));
            store.refer(t, source, offset..offset + takes);
            return Ok(true);
        }
        let length = usize::try_from(takes).map_err(|_| damaged(format!("{takes} bytes of external data")))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map_err(cannot)?;
        stored::set_raw(t, bytes);
        Ok(true)
    }
}

/// The file at `location` below `folder`, if it is reached by plain names and is known by this one alone: a link could lead
/// anywhere, and what has two names can be changed by the other.
fn place(folder: &Path, location: &str) -> Result<PathBuf> {
    let outside = |why: &str| Error::bad_data(format!("its external data, {location:?}, is refused: {why}"));
    let mut path = folder.to_path_buf();
    for part in Path::new(location).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            _ => return Err(outside("it lies outside the model's folder")),
        }
        let found = std::fs::symlink_metadata(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                outside("it is not there").hint("copy the files of its weights along with the model")
            }
            _ => Error::io("cannot read the model's external data", &path, e),
        })?;
        if found.is_symlink() {
            return Err(outside("it is reached by a symbolic link").hint("put the file itself beside the model"));
        }
        if found.is_file() && found.nlink() > 1 {
            return Err(outside("the file has a second name (a hard link)").hint("copy the file beside the model"));
        }
    }
    match path.is_file() {
        true => Ok(path),
        false => Err(outside("it is no file")),
    }
}

/// Bytes that the values of `t` take in a file.
fn bytes_of(t: &TensorProto) -> Option<u64> {
    let count = t.dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?))?;
    let each = match DataType::try_from(t.data_type).ok()? {
        DataType::Int4 | DataType::Uint4 => return Some(count.div_ceil(2)),
        DataType::Uint8 | DataType::Int8 | DataType::Bool => 1,
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        _ => return None,
    };
    count.checked_mul(each)
}
