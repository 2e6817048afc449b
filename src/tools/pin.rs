//! Pins what a model leaves open: dimensions get a size, inputs a value. Branches that this decides are folded when it is loaded.
//!
//! A home is fed examples and nothing else. A setting (a sampling rate) or a state that is carried from call to call is no part of
//! an example: pinned, it becomes a constant of the model.

use std::path::Path;

use prost::Message;

pub use crate::base::Pins;
use crate::base::{MAX_MODEL_BYTES, apply_pins as apply, in_one_file, parse};
use crate::disk::{RealDisk, StagedFile, folder_of, read_file};
use crate::error::{Error, Result};
use crate::export::Written;

/// Writes the model at `model` with `pins` to `out`, in one file; it is a base of its own, with another hash.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the model has no such dimension or input, or `out` exists;
/// [`ErrorKind::BadData`](crate::ErrorKind::BadData) when `model` is no ONNX file; what `check` says of the file before it has its name.
pub fn pin(model: &Path, pins: &Pins, out: &Path, check: &dyn Fn(&Path) -> Result<()>) -> Result<Written> {
    if out.exists() {
        return Err(Error::usage("the file exists").at(out.display()).hint("choose another name, or remove it first"));
    }
    let bytes = in_one_file(model, &read_file(&RealDisk, model, MAX_MODEL_BYTES)?)?;
    let mut proto = parse(&bytes)?;
    apply(proto.graph.get_or_insert_default(), pins).map_err(|e| e.within(model.display()))?;
    let encoded = proto.encode_to_vec();
    let staged = StagedFile::write(&RealDisk, folder_of(out), &encoded)?;
    check(staged.path()).map_err(|e| {
        // Nobody knows it by that name.
        let place = e.place().map(|p| p.replace(&staged.path().display().to_string(), &model.display().to_string()));
        let hint = e.next_step().map(|hint| hint.replace("pin MODEL", &format!("pin MODEL{}", pins.options())));
        let e = e.at(place.unwrap_or_else(|| model.display().to_string()));
        match hint {
            // What was pinned already stays pinned.
            Some(hint) => e.hint(hint),
            None => e,
        }
    })?;
    staged.publish(out)?;
    Ok(Written {
        path: out.to_path_buf(),
        bytes: encoded.len() as u64,
        beside: vec![],
        adapter_alone: false,
        temperature: 1.0,
    })
}
