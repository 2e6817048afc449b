//! `FusedMatMul` of ONNX Runtime: a matrix product of operands that are transposed, and scaled.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::math;

use super::{Form, Wiring};

pub(super) fn fused_mat_mul(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let (a, b) = (w.input(0)?, w.input(1)?);
    let rank = w.rank(a)?.max(w.rank(b)?);
    ensure!(w.rank(a)? >= 2 && w.rank(b)? >= 2, "an operand of fewer than two axes");
    ensure!(rank <= 8, "operands of {rank} axes");
    let moves = ["transBatchA", "transBatchB"].iter().any(|name| form.int(name, 0) != 0);
    ensure!(!moves || w.rank(a)? == w.rank(b)?, "its first axis is moved, and its operands have different axes");
    let (a, b) = (w.lead(a, rank)?, w.lead(b, rank)?);
    let batch = &"abcdef"[..rank - 2];
    // Of an operand whose first axis is moved, that one stands before the others of the batch.
    let side = |first: char, second: char, operand: char| {
        let set = |name: &str| form.int(&format!("{name}{operand}"), 0) != 0;
        let (first, second) = if set("trans") { (second, first) } else { (first, second) };
        if set("transBatch") { format!("{first}{batch}{second}") } else { format!("{batch}{first}{second}") }
    };
    let axes = format!("{},{}->{batch}mn", side('m', 'k', 'A'), side('k', 'n', 'B'));
    let product = w.wire(EinSum::new(axes.parse()?, f32::datum_type()), &[a, b])?;
    match form.number("alpha").unwrap_or(1.0) {
        1.0 => Ok(tvec!(product)),
        alpha => Ok(tvec!(w.with(math::mul(), product, alpha)?)),
    }
}
