//! Tensors of floats whose memory is pages of a file.
//!
//! The runtime's tensors own memory of the allocator and nothing else. So such memory is taken, untouched, and the
//! whole pages in it are replaced by pages of the file. Before it goes back to the allocator they are made pages of
//! its own again. That has to happen at the right time, so the last reference to such a tensor is always one that is
//! held here.

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use tract_core::internal::*;

/// A tensor with pages of a file.
struct Mapped {
    tensor: Arc<Tensor>,
    /// Bytes of it that are.
    whole: usize,
    file: Arc<File>,
    offset: u64,
}

static MAPPED: Mutex<Vec<Mapped>> = Mutex::new(vec![]);

/// The tensor of `shape` whose values are those of `file` from `offset` on, used from the file where its pages allow it
/// and read otherwise.
///
/// Who changes the file changes the tensor; who shortens it has the process end with SIGBUS.
pub(super) fn tensor(file: &Arc<File>, offset: u64, shape: &[usize]) -> TractResult<Arc<Tensor>> {
    let page = rustix::param::page_size();
    if offset.is_multiple_of(page as u64)
        && let Some(tensor) = of_pages(file, offset, shape, page)?
    {
        return Ok(tensor);
    }
    Ok(read(file, offset, shape)?.into_arc_tensor())
}

/// The same in memory of its own.
pub(super) fn read(file: &File, offset: u64, shape: &[usize]) -> TractResult<Tensor> {
    let mut tensor = unwritten(shape, 64)?;
    file.read_exact_at(tensor.as_bytes_mut(), offset).context("cannot read a weight of the model")?;
    Ok(tensor)
}

/// None if it is less than a page, or the file system has no maps.
fn of_pages(file: &Arc<File>, offset: u64, shape: &[usize], page: usize) -> TractResult<Option<Arc<Tensor>>> {
    let mut tensor = unwritten(shape, page)?;
    let bytes = tensor.as_bytes_mut();
    let (whole, rest) = bytes.split_at_mut(bytes.len() / page * page);
    if whole.is_empty() {
        return Ok(None);
    }
    if !replace(whole, file, offset) {
        // A kernel may have taken the old pages away before it failed: that memory is nobody's from now on.
        std::mem::forget(tensor);
        return Ok(None);
    }
    let (whole, read) = (whole.len(), file.read_exact_at(rest, offset + whole.len() as u64));
    let tensor = tensor.into_arc_tensor();
    all().push(Mapped { tensor: Arc::clone(&tensor), whole, file: Arc::clone(file), offset });
    read.context("cannot read a weight of the model")?;
    Ok(Some(tensor))
}

/// A tensor of floats that are to be written before they are read.
fn unwritten(shape: &[usize], alignment: usize) -> TractResult<Tensor> {
    // SAFETY: any bytes are floats, and the caller writes them.
    unsafe { Tensor::uninitialized_aligned::<f32>(shape, alignment) }
}

/// Whether a tensor has pages of a file.
pub(crate) fn is_mapped(tensor: &Arc<Tensor>) -> bool {
    all().iter().any(|m| Arc::ptr_eq(&m.tensor, tensor))
}

/// The values of a tensor with pages of a file, in another shape of as many values; none for another tensor.
pub(crate) fn in_shape(tensor: &Arc<Tensor>, shape: &[usize]) -> Option<Arc<Tensor>> {
    let place = |m: &Mapped| (Arc::clone(&m.file), m.offset);
    let (file, offset) = all().iter().find(|m| Arc::ptr_eq(&m.tensor, tensor)).map(place)?;
    (shape.iter().product::<usize>() == tensor.len()).then(|| self::tensor(&file, offset, shape).ok())?
}

/// Whether two tensors of as many values have the same pages of a file.
pub(crate) fn have_same_pages(a: &Arc<Tensor>, b: &Arc<Tensor>) -> bool {
    let all = all();
    let place = |of: &Arc<Tensor>| all.iter().find(|m| Arc::ptr_eq(&m.tensor, of)).map(|m| (&m.file, m.offset));
    matches!((place(a), place(b)), (Some((a, at)), Some((b, there))) if Arc::ptr_eq(a, b) && at == there)
}

/// Lets go of the tensors that nobody else holds.
pub(crate) fn sweep() {
    all().retain_mut(|mapped| {
        // Nobody can take a reference to a tensor that nobody else has one to.
        let Some(tensor) = Arc::get_mut(&mut mapped.tensor) else { return true };
        let bytes = tensor.as_bytes_mut();
        !give_back(&mut bytes[..mapped.whole])
    });
}

/// Whether the tensor whose values begin at `at` is one of them.
#[cfg(test)]
pub(super) fn has(at: *const u8) -> bool {
    all().iter().any(|m| m.tensor.as_bytes().as_ptr() == at)
}

fn all() -> std::sync::MutexGuard<'static, Vec<Mapped>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the memory of `pages` pages of `file`; they are copied when they are written to. Whether it could be done.
fn replace(pages: &mut [u8], file: &File, offset: u64) -> bool {
    let (at, length) = (pages.as_mut_ptr().cast::<c_void>(), pages.len());
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: the memory is whole pages (`tensor` and the kernel see to that) that the caller has for itself, and stays
    // readable and writable if this succeeds. What it holds then is as good as written.
    unsafe { mmap(at, length, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset) }.is_ok()
}

/// Makes the memory of `pages` the process's own again, with zeros in it. Whether it could be done.
fn give_back(pages: &mut [u8]) -> bool {
    let (at, length) = (pages.as_mut_ptr().cast::<c_void>(), pages.len());
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: as for `replace`.
    unsafe { mmap_anonymous(at, length, ProtFlags::READ | ProtFlags::WRITE, flags) }.is_ok()
}
