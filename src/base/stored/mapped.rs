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

/// Tensors with pages of a file, and how many bytes of each are.
static MAPPED: Mutex<Vec<(Arc<Tensor>, usize)>> = Mutex::new(vec![]);

/// The tensor of `shape` whose values are those of `file` from `offset` on, used from the file where its pages allow it
/// and read otherwise.
///
/// Who changes the file changes the tensor; who shortens it has the process end with SIGBUS.
pub(super) fn tensor(file: &File, offset: u64, shape: &[usize]) -> TractResult<Arc<Tensor>> {
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
fn of_pages(file: &File, offset: u64, shape: &[usize], page: usize) -> TractResult<Option<Arc<Tensor>>> {
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
    let (mapped, read) = (whole.len(), file.read_exact_at(rest, offset + whole.len() as u64));
    let tensor = tensor.into_arc_tensor();
    all().push((Arc::clone(&tensor), mapped));
    read.context("cannot read a weight of the model")?;
    Ok(Some(tensor))
}

/// A tensor of floats that are to be written before they are read.
fn unwritten(shape: &[usize], alignment: usize) -> TractResult<Tensor> {
    // SAFETY: any bytes are floats, and the caller writes them.
    unsafe { Tensor::uninitialized_aligned::<f32>(shape, alignment) }
}

/// Lets go of the tensors that nobody else holds.
pub(super) fn sweep() {
    all().retain_mut(|(tensor, whole)| {
        // Nobody can take a reference to a tensor that nobody else has one to.
        let Some(tensor) = Arc::get_mut(tensor) else { return true };
        let bytes = tensor.as_bytes_mut();
        !give_back(&mut bytes[..*whole])
    });
}

/// Whether the tensor whose values begin at `at` is one of them.
#[cfg(test)]
pub(super) fn has(at: *const u8) -> bool {
    all().iter().any(|(tensor, _)| tensor.as_bytes().as_ptr() == at)
}

fn all() -> std::sync::MutexGuard<'static, Vec<(Arc<Tensor>, usize)>> {
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
