//! What an unknown name may have meant.

/// Most names that are offered.
const OFFERED: usize = 3;
/// Most letters that a slip adds, leaves out or changes, in names of at least `SHORTEST`.
const SLIP: usize = 2;
const SHORTEST: usize = 3;

/// Up to three of `known` that `name` may have meant: it is a part of them, or they are a slip away, whatever the case.
pub fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let name = name.to_lowercase();
    if name.is_empty() {
        return vec![];
    }
    let meant = |known: &&str| {
        let known = known.to_lowercase();
        let long = [&name, &known].iter().all(|word| word.chars().count() >= SHORTEST);
        known.contains(&name) || long && strsim::levenshtein(&known, &name) <= SLIP
    };
    known.into_iter().filter(meant).take(OFFERED).collect()
}

/// `text`, and what `name` may have meant.
pub fn or_meant<'a>(text: String, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match near(name, known).as_slice() {
        [] => text,
        near => format!("{text}; did you mean {}?", near.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_parts_are_near_and_other_names_are_not() {
        let known = ["walking", "walking upstairs", "sitting", "lying", "a", "standing", "Sitzen"];
        assert_eq!(near("walkin", known), ["walking", "walking upstairs"]);
        assert_eq!(near("siting", known), ["sitting"]);
        assert_eq!(near("LYING", known), ["lying"]);
        assert_eq!(near("sitzn", known), ["Sitzen"]);
        assert!(near("running", known).is_empty());
        assert!(near("bb", known).is_empty(), "two short names are not one slip apart");
        assert_eq!(near("in", known).len(), OFFERED);
        assert_eq!(
            or_meant("its inputs are x, mask".into(), "maks", ["x", "mask"]),
            "its inputs are x, mask; did you mean mask?"
        );
        assert_eq!(or_meant("its inputs are x".into(), "image", ["x"]), "its inputs are x");
    }
}
