//! Checks and repairs a home: its settings, its model, and what every profile stores.

use std::path::Path;
use std::sync::Arc;

use super::config::{Config, FILE};
use super::home::{Home, keyed};
use super::now_ms;
use crate::adapter::Fingerprint;
use crate::base::{self, MAX_MODEL_BYTES};
use crate::cipher::Key;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::input::TextEncoder;
use crate::store::{Finding, Repair, State, Store, profile_folder};

/// What [`Home::verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Every file that was looked at.
    pub findings: Vec<Finding>,
}

impl Health {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|f| f.state != State::Damaged)
    }
}

impl Home {
    /// Looks at every file of the home in `path`, without changing anything and without running the model.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when it is no home; [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn verify(path: impl AsRef<Path>) -> Result<Health> {
        let path = path.as_ref();
        let disk = RealDisk;
        let settings = path.join(FILE);
        let config = match Config::read(&disk, path) {
            Err(e) if e.kind() != crate::ErrorKind::BadData => return Err(e),
            Err(e) => return Ok(Health { findings: vec![Finding::of(&settings, Err(e))] }),
            Ok(config) => config,
        };
        let mut findings = vec![Finding::new(&settings, State::Sound, "the settings")];
        let model = path.join(&config.model);
        findings.push(Finding::of(&model, check_model(&disk, &model, &config.fingerprint)));
        if let Some(file) = &config.labels {
            let file = path.join(file);
            findings.push(Finding::of(
                &file,
                super::home::read_labels(&disk, &file).map(|l| format!("{} labels", l.len())),
            ));
        }
        if let Some(file) = &config.tokenizer {
            let file = path.join(file);
            let loaded = TextEncoder::load(&file, config.max_length);
            findings.push(Finding::of(&file, loaded.map(|_| "the tokenizer".into())));
        }
        // Adapters are held against the hash in the settings, so that a changed model is one finding and not many.
        if let Ok(base) = config.fingerprint.parse::<Fingerprint>() {
            let key = config.key(&disk, path, None)?;
            for store in stores(path, key.as_ref())? {
                findings.extend(store.verify(&base)?);
            }
        }
        Ok(Health { findings })
    }

    /// Repairs what can be repaired in the home in `path`; then [`Home::verify`] tells what is left.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when it is no home, [`ErrorKind::BadData`](crate::ErrorKind::BadData) when its
    /// settings are damaged, [`ErrorKind::Busy`](crate::ErrorKind::Busy), [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn repair(path: impl AsRef<Path>) -> Result<Vec<Repair>> {
        let path = path.as_ref();
        let config = Config::read(&RealDisk, path)?;
        let base: Fingerprint = config.fingerprint.parse().map_err(|e: Error| e.at(path.join(FILE).display()))?;
        let key = config.key(&RealDisk, path, None)?;
        let mut done = vec![];
        for store in stores(path, key.as_ref())? {
            done.extend(store.repair(&base, now_ms())?);
        }
        Ok(done)
    }
}

fn check_model(disk: &dyn Disk, model: &Path, fingerprint: &str) -> Result<String> {
    let bytes = disk.map(model, MAX_MODEL_BYTES).map_err(|e| Error::io("cannot read the model", model, e))?;
    let found = base::fingerprint(&bytes).to_string();
    match found == fingerprint {
        true => Ok("the base model".into()),
        false => Err(Error::bad_data(format!(
            "the base model has changed: its hash is {found}, the home was made for {fingerprint}"
        ))),
    }
}

/// The profiles, by the names of their folders.
fn stores(home: &Path, key: Option<&Key>) -> Result<Vec<Store>> {
    let folder = home.join("profiles");
    let io = |e| Error::io("cannot list the profiles", &folder, e);
    if !RealDisk.exists(&folder).map_err(io)? {
        return Ok(vec![]);
    }
    let names = RealDisk.list(&folder).map_err(io)?;
    let folders = names.iter().filter_map(|name| Some((name, profile_folder(home, name).ok()?)));
    let mut stores = vec![];
    for (name, folder) in folders.filter(|(_, folder)| folder.is_dir()) {
        let store = Store::unchecked(keyed(Arc::new(RealDisk), key, name), &folder);
        if !store.is_unmade()? {
            stores.push(store);
        }
    }
    Ok(stores)
}
