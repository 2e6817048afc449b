//! Every matrix product of the crate: `C := alpha·A·B + beta·C` in f32 over strided views.
//!
//! Two backends: `matrixmultiply` always, and with the feature `fast-gemm` the `gemm` crate, which reads operands where they lie
//! and has AVX-512 and NEON kernels. Measured in GFLOP/s (x86-64 with AVX-512 at 256-bit rate, 1 thread, both in one run; best of 25;
//! `cargo test --release --features fast-gemm linalg -- --ignored --nocapture` repeats it). B is row-major unless marked *t*:
//!
//! | product, m x k x n | matrixmultiply | gemm |
//! |---|---|---|
//! | layer, 512x384x1536 | 82 | **97** |
//! | layer, 32x384x1536 | 77 | **103** |
//! | x·A, 512x384x8; r 16; r 4; 32 rows | 22; 44; 11; 19 | **53; 110; 26; 39** |
//! | dy·Bt *t*, 512x384x8 | 22 | **53** |
//! | y += t·B, 512x8x384; r 16; 32 rows | 82; 93; 74 | 84; 96; 80 |
//! | dx += dt·At *t*, 512x8x384 | 81 | 85 |
//! | xt·dt, 384x512x8 | 43 | **53** |
//! | tt·dy, 8x512x384 | 41 | **102** |
//! | convolution to r, 8x32x12544; 4x16x12544 | 33; 16 | **91; 83** |
//! | convolution 72x32x12544; from r, 32x8x12544 | 79; 74 | **92**; 78 |
//! | its dA *t* 8x12544x32; dB *t* 32x12544x8 | 19; 19 | **100; 97** |
//! | head, 312x384x39; 200x1280x10 | 48; 20 | **84; 55** |
//! | 1 row, 1x384x1536; *t* 1x1536x384; t·B 1x8x384 | 4; 3; 2 | **38; 47; 23** |
//! | *t* 32x384x384; 64x384x1536; 512x384x1536 | 60; 74; 83 | **71; 84; 99** |
//! | *t* 8x768x768; 32x768x384; 64x768x768 | **21; 60; 78** | 16; 44; 64 |
//! | *t* 8x1536x384; 32x1536x384; 128x1536x384; 512x1536x384 | **20; 60; 86; 96** | 7; 24; 57; 87 |
//!
//! Hence the rule in `choose`: few rows by a transposed B are summed by `dots`; else it is `gemm` wherever that is
//! compiled in, except for long columns of a transposed B. Loops left to the compiler to vectorise reached 15 to 30.

mod cut;
mod dots;
pub(crate) mod eight;
pub(crate) mod simd;

use std::marker::PhantomData;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::sync::each_part;
pub(crate) use cut::Cut;
#[cfg(test)]
use cut::PART;
use ndarray::{ArrayBase, ArrayRef2, Data, DataMut, Ix2};

/// A read-only matrix over a slice: element (i, j) is `data[i·row_stride + j·col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    data: &'a [f32],
    shape: Shape,
}

/// A writable matrix over a slice; no two elements share a place.
#[derive(Debug)]
pub struct MatMut<'a> {
    /// The slice, of which other places may belong to other matrices.
    data: *mut f32,
    shape: Shape,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a matrix is as much as the exclusive borrow of its places, and floats can be sent. Shared, it gives
// access only through [`MatMut::block`], whose callers answer for it.
unsafe impl Send for MatMut<'_> {}
unsafe impl Sync for MatMut<'_> {}

/// Rows, columns and strides in elements. A value inside a [`MatRef`] or [`MatMut`] was checked against its slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: usize,
    cols: usize,
    rs: usize,
    cs: usize,
}

impl Shape {
    fn t(self) -> Shape {
        Shape { rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs }
    }
    fn is_empty(self) -> bool {
        self.rows == 0 || self.cols == 0
    }
    /// Checks that the last element lies inside `len`, and that every offset fits an `isize`.
    fn check(self, len: usize) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let last = (self.rows - 1)
            .checked_mul(self.rs)
            .zip((self.cols - 1).checked_mul(self.cs))
            .and_then(|(r, c)| r.checked_add(c))
            .filter(|&last| {
                last < isize::MAX as usize && self.rs < isize::MAX as usize && self.cs < isize::MAX as usize
            });
        match last {
            Some(last) if last < len => Ok(()),
            _ => Err(Error::internal(format!(
                "a {}x{} matrix with strides {} and {} does not fit a slice of {len} values",
                self.rows, self.cols, self.rs, self.cs
            ))),
        }
    }
    /// [`Shape::check`] of what is written: no two elements share a place.
    fn check_result(self, len: usize) -> Result<()> {
        self.check(len)?;
        match self.is_unaliased() {
            true => Ok(()),
            false => Err(Error::internal(format!(
                "a {}x{} result with strides {} and {} overlaps itself",
                self.rows, self.cols, self.rs, self.cs
            ))),
        }
    }
    /// Whether distinct (i, j) are distinct places.
    fn is_unaliased(self) -> bool {
        let nested = |outer: usize, inner: usize, n_inner: usize| outer > (n_inner - 1) * inner;
        self.is_empty()
            || match (self.rows, self.cols) {
                (1, 1) => true,
                (1, _) => self.cs > 0,
                (_, 1) => self.rs > 0,
                _ => {
                    self.rs > 0
                        && self.cs > 0
                        && (nested(self.rs, self.cs, self.cols) || nested(self.cs, self.rs, self.rows))
                }
            }
    }
}

/// Strides of an ndarray view as a [`Shape`]; negative strides are refused, those of empty or one-element axes do not matter.
fn shape_of(dim: (usize, usize), strides: &[isize]) -> Result<Shape> {
    let stride = |axis: usize, len: usize| match strides.get(axis) {
        _ if len <= 1 => Ok(0),
        Some(&s) => usize::try_from(s).map_err(|_| Error::internal("a matrix product over a reversed axis")),
        None => Err(Error::internal("a matrix product over an array that is not two-dimensional")),
    };
    Ok(Shape { rows: dim.0, cols: dim.1, rs: stride(0, dim.0)?, cs: stride(1, dim.1)? })
}

impl<'a> MatRef<'a> {
    /// A matrix with any strides, counted in elements.
    ///
    /// # Errors
    /// When the last element would lie outside `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Result<MatRef<'a>> {
        let shape = Shape { rows, cols, rs: row_stride, cs: col_stride };
        shape.check(data.len())?;
        Ok(MatRef { data, shape })
    }
    /// A row-major matrix at the start of `data`.
    ///
    /// # Errors
    /// When `data` is shorter than `rows·cols`.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Result<MatRef<'a>> {
        MatRef::new(data, rows, cols, cols, 1)
    }
    /// An ndarray whose elements fill a slice without gaps, in either memory order.
    ///
    /// # Errors
    /// When the array has gaps or a reversed axis; use [`MatRef::new`] on its storage then.
    pub fn of<S: Data<Elem = f32>>(array: &'a ArrayBase<S, Ix2>) -> Result<MatRef<'a>> {
        let array: &ArrayRef2<f32> = array;
        let shape = shape_of(array.dim(), array.strides())?;
        let data =
            array.as_slice_memory_order().ok_or_else(|| Error::internal("a matrix product over an array with gaps"))?;
        shape.check(data.len())?;
        Ok(MatRef { data, shape })
    }
    /// The transpose, at no cost.
    #[must_use]
    pub fn t(self) -> MatRef<'a> {
        MatRef { data: self.data, shape: self.shape.t() }
    }
    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        (self.shape.rows, self.shape.cols)
    }
    /// The block of `rows` and `cols`, which must lie within this matrix.
    fn block(&self, rows: &Range<usize>, cols: &Range<usize>) -> MatRef<'a> {
        assert!(rows.end <= self.shape.rows && cols.end <= self.shape.cols, "a block within its matrix");
        let at = if rows.is_empty() || cols.is_empty() {
            0
        } else {
            rows.start * self.shape.rs + cols.start * self.shape.cs
        };
        MatRef { data: &self.data[at..], shape: Shape { rows: rows.len(), cols: cols.len(), ..self.shape } }
    }
}

impl<'a> MatMut<'a> {
    /// A matrix with any strides, counted in elements.
    ///
    /// # Errors
    /// When the last element would lie outside `data`, or two elements would share a place.
    pub fn new(
        data: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<MatMut<'a>> {
        let shape = Shape { rows, cols, rs: row_stride, cs: col_stride };
        shape.check_result(data.len())?;
        Ok(MatMut { data: data.as_mut_ptr(), shape, life: PhantomData })
    }
    /// A row-major matrix at the start of `data`.
    ///
    /// # Errors
    /// When `data` is shorter than `rows·cols`.
    pub fn row_major(data: &'a mut [f32], rows: usize, cols: usize) -> Result<MatMut<'a>> {
        MatMut::new(data, rows, cols, cols, 1)
    }
    /// An ndarray whose elements fill a slice without gaps, in either memory order.
    ///
    /// # Errors
    /// When the array has gaps or a reversed axis.
    pub fn of<S: DataMut<Elem = f32>>(array: &'a mut ArrayBase<S, Ix2>) -> Result<MatMut<'a>> {
        let shape = shape_of(array.dim(), array.strides())?;
        let data = array
            .as_slice_memory_order_mut()
            .ok_or_else(|| Error::internal("a matrix product into an array with gaps"))?;
        shape.check(data.len())?;
        Ok(MatMut { data: data.as_mut_ptr(), shape, life: PhantomData })
    }
    /// Writes the row-major `values`, or adds them to what is there.
    pub(crate) fn put(&mut self, values: &[f32], add: bool) {
        let Shape { rows, cols, rs, cs } = self.shape;
        assert!(values.len() == rows * cols, "as many values as the matrix has");
        for (i, row) in values.chunks_exact(cols.max(1)).enumerate() {
            for (j, value) in row.iter().enumerate() {
                // SAFETY: the element lies within the matrix, which is borrowed exclusively.
                let place = unsafe { &mut *self.data.add(i * rs + j * cs) };
                *place = if add { *place + value } else { *value };
            }
        }
    }
    /// The transpose, at no cost.
    #[must_use]
    pub fn t(self) -> MatMut<'a> {
        MatMut { shape: self.shape.t(), ..self }
    }
    /// The block of `rows` and `cols`, which must lie within this matrix.
    ///
    /// # Safety
    /// Blocks that are used at the same time do not overlap, and this matrix is not used meanwhile.
    unsafe fn block(&self, rows: &Range<usize>, cols: &Range<usize>) -> MatMut<'_> {
        assert!(rows.end <= self.shape.rows && cols.end <= self.shape.cols, "a block within its matrix");
        let at = if rows.is_empty() || cols.is_empty() {
            0
        } else {
            rows.start * self.shape.rs + cols.start * self.shape.cs
        };
        let shape = Shape { rows: rows.len(), cols: cols.len(), ..self.shape };
        // SAFETY: the first element of the block is one of the matrix, all of which lie within the slice.
        let data = unsafe { self.data.add(at) };
        MatMut { data, shape, life: PhantomData }
    }
    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        (self.shape.rows, self.shape.cols)
    }
}

/// A slice whose places several threads write, each its own.
pub(crate) struct Places<'a> {
    data: *mut f32,
    len: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: as of [`MatMut`]; access is through functions whose callers answer for it.
unsafe impl Sync for Places<'_> {}

impl<'a> Places<'a> {
    pub fn new(data: &'a mut [f32]) -> Places<'a> {
        Places { data: data.as_mut_ptr(), len: data.len(), life: PhantomData }
    }

    /// A matrix whose first element is at `at`, as [`MatMut::new`].
    ///
    /// # Safety
    /// No place of it is used otherwise while it is there.
    pub unsafe fn matrix(&self, at: usize, rows: usize, cols: usize, rs: usize, cs: usize) -> Result<MatMut<'_>> {
        let shape = Shape { rows, cols, rs, cs };
        shape.check_result(self.len.saturating_sub(at))?;
        // SAFETY: `check_result` has seen that a first element, if there is one, lies within the slice.
        let data = if shape.is_empty() { self.data } else { unsafe { self.data.add(at) } };
        Ok(MatMut { data, shape, life: PhantomData })
    }

    /// The places of `range`.
    ///
    /// # Safety
    /// None of them is used otherwise while the slice is there.
    #[allow(clippy::mut_from_ref)] // what the caller answers for
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "places of the slice");
        // SAFETY: the range lies within the slice, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// `C := alpha·A·B + beta·C`. With `beta == 0` C is overwritten, whatever it held (NaN too). The cores of the
/// pass that this is part of share the work.
///
/// # Errors
/// When the dimensions do not agree.
pub fn gemm(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) -> Result<()> {
    check_dims(&a, &b, &c)?;
    let (m, k, n) = (a.shape.rows, a.shape.cols, b.shape.cols);
    let backend = choose(&a, &b);
    let cut = Cut::new(backend, m, k, n, 1, c.shape.cs <= c.shape.rs);
    if cut.parts() == 1 {
        gemm_with(backend, alpha, a, b, beta, c);
        return Ok(());
    }
    each_part(cut.parts(), |part| {
        let (rows, cols) = cut.part(part);
        // SAFETY: parts do not overlap, and `c` is used through them alone.
        let c = unsafe { c.block(&rows, &cols) };
        let (a, b) = (a.block(&rows, &(0..k)), b.block(&(0..k), &cols));
        gemm_with(backend, alpha, a, b, beta, c);
        Ok(())
    })
}

/// A part of a product, `C := A·B + beta·C`, on this thread; `backend` is that of the whole.
///
/// # Errors
/// When the dimensions do not agree.
pub(crate) fn gemm_part(backend: Backend, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) -> Result<()> {
    check_dims(&a, &b, &c)?;
    gemm_with(backend, 1.0, a, b, beta, c);
    Ok(())
}

fn check_dims(a: &MatRef<'_>, b: &MatRef<'_>, c: &MatMut<'_>) -> Result<()> {
    if a.shape.cols != b.shape.rows || a.shape.rows != c.shape.rows || b.shape.cols != c.shape.cols {
        return Err(Error::internal(format!(
            "matrix product of {:?} by {:?} into {:?}: dimensions do not agree",
            a.dim(),
            b.dim(),
            c.dim()
        )));
    }
    Ok(())
}

/// A way to compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `matrixmultiply::sgemm`: packs both operands; AVX2/FMA or NEON kernels.
    MatrixMultiply,
    /// `dots`: reads both operands along the sum; AVX2 or NEON.
    Dots,
    /// The `gemm` crate: reads operands where they lie; AVX-512 or NEON kernels.
    #[cfg(feature = "fast-gemm")]
    Gemm,
}

/// The rule read off the table of the module's documentation.
pub(crate) fn choose(a: &MatRef<'_>, b: &MatRef<'_>) -> Backend {
    if dots::suits(a, b) {
        return Backend::Dots;
    }
    #[cfg(feature = "fast-gemm")]
    {
        // Long columns of a transposed B, read in place, fall on few cache sets: packing them first costs less.
        let (m, k, n) = (a.shape.rows, b.shape.rows, b.shape.cols);
        let across = b.shape.rs < b.shape.cs;
        if across && m >= 2 && k >= 768 && n >= 64 {
            return Backend::MatrixMultiply;
        }
        Backend::Gemm
    }
    #[cfg(not(feature = "fast-gemm"))]
    {
        let _ = (a, b);
        Backend::MatrixMultiply
    }
}

/// The product by one backend; dimensions were checked.
fn gemm_with(backend: Backend, alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, mut c: MatMut<'_>) {
    if c.shape.is_empty() {
        return;
    }
    if a.shape.cols == 0 || alpha == 0.0 {
        return scale(beta, &mut c);
    }
    match backend {
        Backend::MatrixMultiply => by_matrixmultiply(alpha, a, b, beta, c),
        Backend::Dots => dots::product(alpha, a, b, beta, c),
        #[cfg(feature = "fast-gemm")]
        Backend::Gemm => by_gemm(alpha, a, b, beta, c),
    }
}

/// `C := beta·C`.
fn scale(beta: f32, c: &mut MatMut<'_>) {
    let Shape { rows, cols, rs, cs } = c.shape;
    for i in 0..rows {
        for j in 0..cols {
            // SAFETY: the element lies within the matrix, which is borrowed exclusively.
            let v = unsafe { &mut *c.data.add(i * rs + j * cs) };
            *v = if beta == 0.0 { 0.0 } else { beta * *v };
        }
    }
}

fn by_matrixmultiply(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    let (sa, sb, sc) = (a.shape, b.shape, c.shape);
    debug_assert!(sa.cols == sb.rows && sa.rows == sc.rows && sb.cols == sc.cols);
    // SAFETY: every (i, j) of the three shapes lies inside its slice (`Shape::check` at construction; dimensions agree,
    // checked by `gemm`); strides fit `isize`; `c` is borrowed exclusively and does not alias itself (`MatMut::new`).
    unsafe {
        matrixmultiply::sgemm(
            sc.rows,
            sa.cols,
            sc.cols,
            alpha,
            a.data.as_ptr(),
            sa.rs as isize,
            sa.cs as isize,
            b.data.as_ptr(),
            sb.rs as isize,
            sb.cs as isize,
            beta,
            c.data,
            sc.rs as isize,
            sc.cs as isize,
        );
    }
}

/// The f32 kernels of the crate `gemm`, taken without those of its four other types, which nothing here needs.
#[cfg(feature = "fast-gemm")]
fn by_gemm(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: MatMut<'_>) {
    // The kernels want a destination in column-major order: in row-major order it is C^T = B^T·A^T.
    let (a, b, c) = if c.shape.cs < c.shape.rs { (b.t(), a.t(), c.t()) } else { (a, b, c) };
    let (sa, sb, sc) = (a.shape, b.shape, c.shape);
    debug_assert!(sa.cols == sb.rows && sa.rows == sc.rows && sb.cols == sc.cols);
    // SAFETY: as in `by_matrixmultiply`. The function is the one for the instructions that this processor has. The
    // crate's own alpha scales C and its beta scales A·B.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            sc.rows,
            sc.cols,
            sa.cols,
            c.data,
            sc.cs as isize,
            sc.rs as isize,
            beta != 0.0,
            a.data.as_ptr(),
            sa.cs as isize,
            sa.rs as isize,
            b.data.as_ptr(),
            sb.cs as isize,
            sb.rs as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests;
