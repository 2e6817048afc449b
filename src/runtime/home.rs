//! A home: a folder with the base model, its settings, and the profiles of the people who use it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{Config, TextPadding};
use super::intake::IntakeKind;
use super::language::Language;
use crate::adapter::Pooling;
use crate::base::{Base, DeviceChoice, Task};
use crate::cipher::{Cipher, Key};
use crate::disk::{Disk, FileAccess, KeyedDisk, RealDisk, read_file};
use crate::error::{Error, Result};
use crate::input::{Intake, RawInput as Input, label};
use crate::plan::{Engine, Padding, Survey, survey};
use crate::process::TrainLimits;

pub(super) const LONGEST_LABELS: u64 = 16 << 20;
/// Length at which a model with sequences is looked at.
pub(super) const SURVEY_LENGTH: usize = 16;

pub(crate) struct HomeInner {
    pub path: PathBuf,
    pub config: Config,
    pub engine: Engine,
    pub intake: IntakeKind,
    /// Labels of the base's classes, or the ones listed for an encoder.
    pub labels: Vec<String>,
    pub disk: Arc<dyn Disk>,
    /// With which the profiles are encrypted.
    pub key: Option<Key>,
    /// Feature width and number of base classes that the head works with.
    pub features: usize,
    pub base_classes: usize,
    /// Where the model generates text: what does.
    pub language: Option<Language>,
}

/// What answers in a home, and the sizes that its head works with.
pub(super) struct Answering {
    pub engine: Engine,
    features: usize,
    base_classes: usize,
}

impl Answering {
    pub fn new(base: Arc<Base>, config: &Config, intake: &IntakeKind) -> Result<Answering> {
        let declared: Task = config.task.parse().map_err(|e: Error| Error::bad_data(e.what()))?;
        // Where the model's own classes are set aside, the head reads what its classifier reads.
        let aside = declared == Task::Encoder && base.output_kind()?.has_classes();
        let task = if aside { Task::Classification } else { declared };
        let seen: Survey = survey(&base, task, &base.bucket(1, SURVEY_LENGTH))?;
        let (features, sequence) = (seen.features, seen.sequence);
        let base_classes = if declared == Task::Classification { seen.classes } else { 0 };
        let pooling = if sequence { Pooling::Mean } else { Pooling::None };
        let engine = Engine::new(base, task, pooling).on_cores(config.threads());
        let engine = if aside { engine.without_classes() } else { engine };
        let engine = match config.padding {
            TextPadding::Exact => engine,
            TextPadding::Masked => engine.padded(Padding::Masked { pad_id: intake.pad_id() }),
        };
        let engine = match intake {
            IntakeKind::Text(encoder) => engine.within(encoder.max_length()),
            _ => engine,
        };
        Ok(Answering { engine, features, base_classes })
    }
}

/// A home, open. Cheap to clone; all sessions share its model and its compiled plans.
#[derive(Clone)]
pub struct Home(pub(crate) Arc<HomeInner>);

impl Home {
    /// Opens the home in `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when it is no home; [`ErrorKind::BadData`](crate::ErrorKind::BadData) when its
    /// settings are damaged or its base model has changed.
    ///
    /// [`ErrorKind::NoKey`](crate::ErrorKind::NoKey) when it is encrypted and its key is not where the settings say.
    pub fn open(path: impl AsRef<Path>) -> Result<Home> {
        Home::open_on(Arc::new(RealDisk), path.as_ref(), None)
    }

    /// [`Home::open`] of an encrypted home whose key the caller keeps: in a secure element, or behind a password.
    ///
    /// # Errors
    /// As [`Home::open`]; [`ErrorKind::NoKey`](crate::ErrorKind::NoKey) when it is not the home's key.
    pub fn open_with_key(path: impl AsRef<Path>, key: Key) -> Result<Home> {
        Home::open_on(Arc::new(RealDisk), path.as_ref(), Some(key))
    }

    internal! {
        /// [`Home::open`], with what is to compute in place of the home's setting.
        ///
        /// # Errors
        /// As [`Home::open`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) where a GPU is asked for and cannot be
        /// used.
        pub fn open_on_device(path: impl AsRef<Path>, device: Option<DeviceChoice>) -> Result<Home> {
            Home::open_placed(Arc::new(RealDisk), path.as_ref(), None, device)
        }
    }

    /// The file of the base model of the home in `path`.
    ///
    /// # Errors
    /// As [`Home::open`] when it is no home, or its settings are damaged.
    pub fn model_file(path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        Ok(path.join(Config::read(&RealDisk, path)?.model))
    }

    /// Opens the home in `path`, all of whose files but the model and the tokenizer are used through `disk`.
    pub(super) fn open_on(disk: Arc<dyn Disk>, path: &Path, key: Option<Key>) -> Result<Home> {
        Home::open_placed(disk, path, key, None)
    }

    fn open_placed(disk: Arc<dyn Disk>, path: &Path, key: Option<Key>, device: Option<DeviceChoice>) -> Result<Home> {
        let config = Config::read(&*disk, path)?;
        let placement = device.unwrap_or(config.device()).place().map_err(|e| e.at(path.display()))?;
        let key = config.key(&*disk, path, key)?;
        let model = path.join(&config.model);
        // A model that nobody has looked at is not even parsed.
        let mapped = config.storage.base == FileAccess::Mmap;
        let base = Base::open_in_home(&model, mapped, &|found| match found.to_string() == config.fingerprint {
            true => Ok(()),
            false => Err(Error::bad_data("the home's base model has changed")
                .at(model.display())
                .because(format!("its hash is {found}, the home was made for {}", config.fingerprint))
                .hint("put the old file back, or make a new home for the new model: adapters fit one base only")),
        })?;
        let declared: Task = config.task.parse().map_err(|e: Error| Error::bad_data(e.what()).at(path.display()))?;
        let listed = match &config.labels {
            Some(file) => read_labels(&*disk, &path.join(file))?,
            None => vec![],
        };
        let counted = (declared == Task::Classification && !listed.is_empty()).then_some(listed.len());
        let base = base.answering(config.model_output.as_deref(), counted)?.reading(config.model_input.as_deref())?;
        let base = base.on(placement);
        let language_model = declared == Task::CausalLm;
        // A language model's texts have no window of their own.
        let tokenizer = config.tokenizer.as_ref().filter(|_| !language_model).map(|file| path.join(file));
        let intake = IntakeKind::new(&base, &config, tokenizer.as_deref())?;
        let Answering { engine, features, base_classes } = Answering::new(Arc::new(base), &config, &intake)
            .map_err(|e| if e.place().is_none() { e.at(path.display()) } else { e })?;
        let mut labels = listed;
        for class in labels.len()..base_classes {
            labels.push(class.to_string());
        }
        let language = match language_model {
            true => Some(Language::open(engine.base.clone(), path, config.threads())?),
            false => None,
        };
        let path = path.to_path_buf();
        Ok(Home(Arc::new(HomeInner {
            path,
            config,
            engine,
            intake,
            labels,
            disk,
            key,
            features,
            base_classes,
            language,
        })))
    }

    /// What generates text.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the model does not.
    pub(crate) fn language(&self) -> Result<&Language> {
        self.0.language.as_ref().ok_or_else(|| {
            Error::usage(format!("the model of this home generates no text: its task is {}", self.0.config.task))
                .at(self.path().display())
                .hint("`acclimate predict` answers with it")
        })
    }
    internal! {
        /// # Errors
        /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the model generates text.
        pub fn classifies(&self) -> Result<()> {
            match self.0.language {
                None => Ok(()),
                Some(_) => Err(Error::usage("the model of this home generates text, and answers with no class")
                    .at(self.path().display())
                    .hint("`acclimate generate` and `acclimate chat` answer with it")),
            }
        }
    }
    /// The home's folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
    /// Whether the profiles are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.key.is_some()
    }
    /// What training may cost.
    pub fn limits(&self) -> TrainLimits {
        self.0.config.limits
    }
    /// What the model takes, to complete "this model takes …".
    pub fn takes(&self) -> &'static str {
        if self.generates() { "text" } else { self.intake().takes() }
    }
    internal! {
        /// Whether its model generates text.
        pub fn generates(&self) -> bool {
            self.0.language.is_some()
        }
    }
    /// Reads a file as the model takes it: a picture, arrays (`.npy`, `.npz`), or a text.
    ///
    /// # Errors
    /// [`ErrorKind::BadData`](crate::ErrorKind::BadData) when there is no such file, it is damaged, or the model takes another sort of
    /// input; [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn read(&self, file: impl AsRef<Path>) -> Result<Input> {
        Input::file(file.as_ref(), self.intake())
    }
    internal! {
        /// Its settings.
        pub fn config(&self) -> &Config {
            &self.0.config
        }
    }
    internal! {
        /// Its base model.
        pub fn base(&self) -> &Base {
            &self.0.engine.base
        }
    }
    /// Labels of the classes that are known without any adapter.
    pub fn labels(&self) -> &[String] {
        &self.0.labels
    }
    internal! {
        /// How inputs become arrays.
        pub fn intake(&self) -> Intake<'_> {
            self.0.intake.borrowed()
        }
    }
    /// The disk through which the files of a profile are used: with its cipher, where the home is encrypted.
    pub(crate) fn profile_disk(&self, profile: &str) -> Arc<dyn Disk> {
        keyed(self.0.disk.clone(), self.0.key.as_ref(), profile)
    }
    /// Names of the profiles, sorted.
    pub fn profiles(&self) -> Result<Vec<String>> {
        profiles(&*self.0.disk, &self.0.path)
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("path", &self.0.path).field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// Names of the profiles of the home in `path`, sorted.
pub(super) fn profiles(disk: &dyn Disk, path: &Path) -> Result<Vec<String>> {
    let folder = path.join("profiles");
    let io = |e| Error::io("cannot list the profiles", &folder, e);
    let mut all = vec![];
    let names = disk.exists(&folder).and_then(|there| if there { disk.list(&folder) } else { Ok(vec![]) });
    for name in names.map_err(io)?.into_iter().filter(|name| !name.starts_with('.')) {
        // One that a failing disk does not show is not gone.
        match std::fs::metadata(folder.join(&name)) {
            Ok(about) if about.is_dir() => all.push(name),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(e)),
        }
    }
    Ok(all)
}

/// `disk` with the cipher of a profile, where there is a key.
pub(super) fn keyed(disk: Arc<dyn Disk>, key: Option<&Key>, profile: &str) -> Arc<dyn Disk> {
    match key {
        Some(key) => Arc::new(KeyedDisk::new(disk, Cipher::new(key, profile))),
        None => disk,
    }
}

pub(super) fn read_labels(disk: &dyn Disk, file: &Path) -> Result<Vec<String>> {
    let bytes = read_file(disk, file, LONGEST_LABELS)?;
    label::list(&bytes).map_err(|e| e.within(file.display()))
}
