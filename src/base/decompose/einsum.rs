//! Sums of products by an equation. The runtime's own reader loses axes of an ellipsis that not every input has.

use tract_core::internal::*;
use tract_core::ops::einsum::EinSum;

use super::{Form, Wiring};

pub(super) fn einsum(form: &Form, w: &mut Wiring) -> TractResult<TVec<OutletId>> {
    let inputs: TVec<OutletId> = (0..form.inputs.len()).map(|slot| w.input(slot)).collect::<TractResult<_>>()?;
    let ranks: TVec<usize> = inputs.iter().map(|i| w.rank(*i)).collect::<TractResult<_>>()?;
    let equation = spelt_out(form.text("equation").context("its equation is missing")?, &ranks)?;
    let kind = w.fact(*inputs.first().context("it has no inputs")?)?.datum_type;
    Ok(tvec!(w.wire(EinSum::new(equation.parse()?, kind), &inputs)?))
}

/// `equation` with letters for the axes of its ellipses, which are aligned at their ends, and with its output.
fn spelt_out(equation: &str, ranks: &[usize]) -> TractResult<String> {
    const DOTS: &str = "...";
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (terms, output) = match equation.split_once("->") {
        Some((terms, output)) => (terms, Some(output)),
        None => (equation.as_str(), None),
    };
    let terms: TVec<&str> = terms.split(',').collect();
    ensure!(terms.len() == ranks.len(), "its equation {equation:?} is not one of {} inputs", ranks.len());
    let letters = |term: &str| term.replacen(DOTS, "", 1);
    let sound = |term: &str| letters(term).chars().all(|c| c.is_ascii_alphabetic());
    ensure!(terms.iter().all(|t| sound(t)) && output.is_none_or(sound), "its equation is {equation:?}");
    let mut spans: TVec<usize> = tvec!();
    for (term, rank) in terms.iter().zip(ranks) {
        let span = rank.checked_sub(letters(term).len()).filter(|span| *span == 0 || term.contains(DOTS));
        spans.push(span.with_context(|| format!("{term:?} of an input of {rank} axes"))?);
    }
    let most = spans.iter().copied().max().unwrap_or(0);
    let free: String = ('a'..='z').chain('A'..='Z').filter(|c| !equation.contains(*c)).take(most).collect();
    ensure!(free.len() == most, "an ellipsis of {most} axes in {equation:?}");
    let spell = |term: &str, span: usize| term.replacen(DOTS, &free[most - span..], 1);
    let inputs: TVec<String> = terms.iter().zip(&spans).map(|(term, span)| spell(term, *span)).collect();
    let all = inputs.concat();
    let output = match output {
        Some(output) => {
            ensure!(
                most == 0 || output.contains(DOTS),
                "its output leaves out what the ellipsis of {equation:?} stands for"
            );
            spell(output, most)
        }
        None => {
            let mut once: Vec<char> = terms.iter().flat_map(|t| letters(t).chars().collect::<Vec<_>>()).collect();
            once.retain(|c| all.matches(*c).count() == 1);
            once.sort_unstable();
            free.chars().chain(once).collect()
        }
    };
    let known = output.chars().all(|c| all.contains(c) && output.matches(c).count() == 1);
    ensure!(known, "the output of its equation {equation:?}");
    Ok(format!("{}->{output}", inputs.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ellipses_become_letters() {
        let cases: [(&str, &[usize], &str); 7] = [
            ("...i,ij->...j", &[3, 2], "abi,ij->abj"),
            (" i j , j k ", &[2, 2], "ij,jk->ik"),
            ("a...,b...->...ab", &[3, 2], "acd,bd->cdab"),
            ("...ii->...i", &[4], "abii->abi"),
            ("...kj,...ji", &[3, 3], "akj,aji->aik"),
            ("ij->ij", &[2], "ij->ij"),
            ("...,...->...", &[2, 0], "ab,->ab"),
        ];
        for (equation, ranks, expected) in cases {
            assert_eq!(spelt_out(equation, ranks).unwrap(), expected, "{equation}");
        }
        let refused: [(&str, &[usize]); 8] = [
            ("ij,jk->ik", &[2]),
            ("ij->i", &[3]),
            ("...ij->ij", &[3]),
            ("i.j->ij", &[2]),
            ("......i->i", &[1]),
            ("ij->ik", &[2]),
            ("ij->ii", &[2]),
            ("...i->...i", &[64]),
        ];
        for (equation, ranks) in refused {
            assert!(spelt_out(equation, ranks).is_err(), "{equation}");
        }
    }
}
