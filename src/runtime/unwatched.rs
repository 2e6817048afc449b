//! A build without training rolls nothing back by feedback: the comparison with the base is a part of the gate.

use super::Session;

impl Session {
    pub(super) fn watched(&self) -> Option<u64> {
        None
    }
}
