//! A bundle without a home, for the simulated disk: from one store to another one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Exported, Imported, Lock, Manifest, Target, Unlock, open, write};
use crate::adapter::Fingerprint;
use crate::disk::Disk;
use crate::error::Result;
use crate::store::Store;

/// A key pair, and the base that everything belongs to.
pub(crate) struct Carrier {
    lock: Lock,
    unlock: Unlock,
    base: Fingerprint,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Carrier")
    }
}

const TASK: &str = "classification";

impl Carrier {
    pub(crate) fn new(base: Fingerprint) -> Carrier {
        let identity = age::x25519::Identity::generate();
        let lock = Lock::Recipient(identity.to_public());
        Carrier { lock, unlock: Unlock::Identities(vec![identity]), base }
    }

    /// The profile of `store`, whose journal is durable, as the new file `out`.
    pub(crate) fn export(&self, disk: &dyn Disk, store: &Store, next_id: u32, out: &Path) -> Result<Exported> {
        let _held = store.lock_training(Duration::ZERO, "exporting")?;
        let manifest = Manifest {
            base: self.base,
            profile: "ada".into(),
            task: TASK.into(),
            settings: String::new(),
            contents: store.contents()?,
            next_id,
        };
        write(disk, store, &manifest, out, &self.lock)
    }

    /// The bundle `file` as the new profile `name` of `home`.
    pub(crate) fn import(&self, disk: &Arc<dyn Disk>, file: &Path, home: &Path, name: &str) -> Result<Imported> {
        let profile_disk = |_: &str| disk.clone();
        let target = Target { home, disk: &profile_disk, base: self.base, task: TASK };
        target.read(open(&**disk, file, &self.unlock)?, Some(name))
    }
}
