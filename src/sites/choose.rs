//! Chooses among the sites: by the user's pattern, or the last block of the model.

use std::collections::HashSet;

use tract_core::internal::*;

use super::Site;
use super::find::Found;

/// A comma-separated list of site names in which `*` stands for anything; `all` and the empty pattern mean every site.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Parses a pattern.
    pub fn new(text: &str) -> Pattern {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty() && *p != "all");
        Pattern(parts.map(str::to_string).collect())
    }
    /// Whether the pattern names `site`.
    pub fn matches(&self, site: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|p| wildcard(p, site))
    }
    /// Whether the pattern names `site`, or a module that an exporter packed into it.
    pub fn selects(&self, site: &Site) -> bool {
        self.matches(&site.name) || site.modules.iter().any(|module| self.matches(&module.name))
    }
    /// True when every site matches.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str("all") } else { f.write_str(&self.0.join(",")) }
    }
}

fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let tail: Vec<&str> = parts.collect();
    let Some((last, middle)) = tail.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// The sites of the last block: those after the latest point through which everything that depends on a site passes as one
/// value, such that a fair share of sites lies behind it (three, or half of very few). `found` is in evaluation order.
pub(crate) fn last_block(model: &TypedModel, found: &[&Found]) -> TractResult<Vec<bool>> {
    let wanted = found.len().div_ceil(2).clamp(1, 3);
    let order = model.eval_order()?;
    let position: HashMap<usize, usize> = order.iter().enumerate().map(|(p, &id)| (id, p)).collect();
    let mut active: HashSet<usize> = found.iter().map(|f| f.node).collect();
    let mut live: HashSet<OutletId> = HashSet::new();
    let mut cut = None;
    let last_use = |o: &OutletId| {
        let node = model.node(o.node);
        let uses = node.outputs[o.slot].successors.iter().filter_map(|s| position.get(&s.node));
        uses.max().copied().unwrap_or(0)
    };
    for (p, &id) in order.iter().enumerate() {
        let node = model.node(id);
        if !active.contains(&id) && !node.inputs.iter().any(|i| active.contains(&i.node)) {
            continue;
        }
        active.insert(id);
        live.extend((0..node.outputs.len()).map(|slot| OutletId::new(id, slot)));
        live.retain(|o| last_use(o) > p);
        let behind = found.iter().filter(|f| position.get(&f.node).is_some_and(|&q| q > p)).count();
        if live.len() == 1 && behind >= wanted {
            cut = Some(p);
        }
    }
    Ok(found.iter().map(|f| cut.is_none_or(|cut| position.get(&f.node).is_some_and(|&q| q > cut))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(Pattern::new("").matches("/a/b"));
        assert!(Pattern::new("all").is_all());
        let p = Pattern::new("/layer.5/*, *fc");
        assert!(p.matches("/layer.5/query") && p.matches("/head/fc"));
        assert!(!p.matches("/layer.4/query") && !p.matches("/head/fc2"));
        assert!(Pattern::new("a*b*c").matches("a--b--c") && !Pattern::new("a*b*c").matches("a--c"));
        assert!(Pattern::new("exact").matches("exact") && !Pattern::new("exact").matches("exactly"));
        assert!(!Pattern::new("ab*ba").matches("aba"));
    }
}
