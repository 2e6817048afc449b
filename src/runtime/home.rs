//! A home: a folder with the base model, its settings, and the profiles of the people who use it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{Config, Encryption, NewClasses, TextPadding};
use super::ends;
use super::first_run::first_run;
use super::init_options::InitOptions;
use super::intake::{self, IntakeKind};
use super::sandbox::Trial;
use crate::adapter::{Fingerprint, Pooling};
use crate::base::{Base, Task};
use crate::cipher::{Cipher, Key};
use crate::disk::{Disk, RealDisk, StagedFile, make_folder, read_file};
use crate::disk::{KeySource, KeyedDisk};
use crate::error::{Error, Result};
use crate::input::{Intake, RawInput as Input, label};
use crate::plan::{Engine, Padding, Survey, survey};
use crate::process::TrainLimits;
use crate::sites::Pattern;

const MODEL_FILE: &str = "base.onnx";
const LABELS_FILE: &str = "labels.txt";
const TOKENIZER_FILE: &str = "tokenizer.json";
const LONGEST_LABELS: u64 = 16 << 20;
/// Length at which a model with sequences is looked at.
const SURVEY_LENGTH: usize = 16;

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
}

/// What answers in a home, and the sizes that its head works with.
struct Answering {
    engine: Engine,
    features: usize,
    base_classes: usize,
}

impl Answering {
    fn new(base: Arc<Base>, config: &Config, intake: &IntakeKind) -> Result<Answering> {
        let declared: Task = config.task.parse().map_err(|e: Error| Error::bad_data(e.what()))?;
        // Where the model's own classes are set aside, the head reads what its classifier reads.
        let aside = declared == Task::Encoder && base.output_kind()?.has_classes();
        let task = if aside { Task::Classification } else { declared };
        let seen: Survey = survey(&base, task, &base.bucket(1, SURVEY_LENGTH))?;
        let (features, sequence) = (seen.features, seen.sequence);
        let base_classes = if declared == Task::Classification { seen.classes } else { 0 };
        let pooling = if sequence { Pooling::Mean } else { Pooling::None };
        let engine = Engine::new(base, task, pooling);
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
    /// Makes a home in `path`, which must not be one yet: copies the model, and remembers what it takes and answers.
    ///
    /// # Errors
    /// When the model cannot be used, a file cannot be read or written, or the folder is a home already.
    pub fn init(path: impl AsRef<Path>, options: &InitOptions) -> Result<Home> {
        Home::init_telling(path, options, &mut |warning| tracing::warn!("{warning}"))
    }

    /// [`Home::init`], which hands to `tell` what the caller should know before anything is stored: that labels do not fit the model's
    /// outputs, or that another output than the first answers.
    ///
    /// # Errors
    /// As [`Home::init`].
    pub fn init_telling(path: impl AsRef<Path>, options: &InitOptions, tell: &mut dyn FnMut(&str)) -> Result<Home> {
        let (path, disk) = (path.as_ref(), RealDisk);
        if disk.exists(&path.join(super::config::FILE)).map_err(|e| Error::io("cannot look for a home", path, e))? {
            return Err(Error::usage("this is a home already")
                .at(path.display())
                .hint("choose another folder, or remove this one first"));
        }
        if !(1..=256).contains(&options.rank) {
            return Err(Error::usage(format!("a rank of {}", options.rank)).hint("choose 1 to 256; 8 is the default"));
        }
        let labels = options.labels.as_ref().map(|file| read_labels(&disk, file)).transpose()?;
        let counted = labels.as_ref().map(Vec::len).filter(|_| options.task != Some(Task::Encoder));
        let trial = Trial { output: options.model_output.clone(), classes: counted, task: options.task };
        let vetted = options.vetting.as_ref().map(|vetting| vetting.check(&options.model, &trial)).transpose()?;
        let base = Base::open_if(&options.model, &|found| match &vetted {
            Some(vetted) if vetted != found => Err(Error::bad_data("the model changed while it was tried")
                .at(options.model.display())
                .hint("try again")),
            _ => Ok(()),
        })?;
        let base = base.answering(options.model_output.as_deref(), counted)?.reading(options.model_input.as_deref())?;
        let task = base.task(options.task)?;
        let mut config = Config {
            format: 1,
            model: MODEL_FILE.into(),
            fingerprint: base.fingerprint().to_string(),
            task: task.name().into(),
            labels: None,
            tokenizer: None,
            max_length: 128,
            rank: options.rank,
            sites: options.sites.to_string(),
            new_classes: NewClasses::Ask,
            disagreement_limit: 0.10,
            seed: 0,
            padding: TextPadding::default(),
            image: None,
            model_output: options.model_output.clone(),
            model_input: options.model_input.clone(),
            encryption: None,
            limits: options.limits,
        };
        let seen = survey(&base, task, &base.bucket(1, SURVEY_LENGTH))?;
        if !options.sites.is_all() && !seen.table.sites.iter().any(|s| options.sites.matches(&s.name)) {
            return Err(no_site(&base, &options.sites));
        }
        // Everything that can be wrong is looked at before anything is written.
        let outcome = ends::decide(&base, task, seen.classes, labels.as_ref().map(Vec::len))?;
        if let (Some(file), Some(labels)) = (&options.labels, &labels)
            && label::has_bare_returns(&read_file(&disk, file, LONGEST_LABELS)?)
        {
            tell(&format!(
                "{}: carriage returns alone end its lines; they were read as {} labels, for a model of {} classes",
                file.display(),
                labels.len(),
                seen.classes
            ));
        }
        outcome.warnings.iter().for_each(|warning| tell(warning));
        config.task = outcome.task.name().into();
        config.model_output = config.model_output.or(outcome.output);
        config.new_classes = options.new_classes.unwrap_or(match (&labels, config.task.as_str()) {
            (None, "encoder") => NewClasses::Allow,
            _ => NewClasses::Ask,
        });
        if let Some(file) = &options.tokenizer {
            config.max_length = intake::window(&base, file, config.max_length)?;
        }
        config.image = options.image.clone().or_else(|| intake::guess_image(&base));
        if let Some(image) = &mut config.image {
            image.tensor |= options.tensor;
        }
        let external = base.has_external_data();
        let intake = IntakeKind::new(&base, &config, options.tokenizer.as_deref())?;
        let answering = Answering::new(Arc::new(base), &config, &intake)?;
        config.padding = first_run(&answering.engine, &intake)?;
        drop(answering);
        if let Some(source) = &options.key {
            let key = made_key(&disk, path, source)?;
            config.encryption = Some(Encryption { mark: key.mark(), key: absolute(source)? });
        }
        make_folder(&disk, path)?;
        // A file of the same content is what an `init` that was cut off left.
        let put_bytes = |bytes: &[u8], name: &str| -> Result<()> {
            let to = path.join(name);
            if disk.exists(&to).map_err(|e| Error::io("cannot look for a file", &to, e))? {
                let same = read_file(&disk, &to, crate::base::MAX_MODEL_BYTES).is_ok_and(|there| there == bytes);
                let other = || Error::usage("the folder holds another file of this name").at(to.display());
                return if same { Ok(()) } else { Err(other().hint("choose another folder for the home")) };
            }
            StagedFile::write(&disk, path, bytes)?.publish(&to)
        };
        let put = |from: &Path, name: &str, limit: u64| put_bytes(&read_file(&disk, from, limit)?, name);
        if external {
            // The home's model is one file, so that its hash covers every weight.
            let bytes = read_file(&disk, &options.model, crate::base::MAX_MODEL_BYTES)?;
            let whole = crate::base::in_one_file(&options.model, &bytes)?;
            config.fingerprint = Fingerprint::of(&whole).to_string();
            put_bytes(&whole, MODEL_FILE)?;
        } else {
            put(&options.model, MODEL_FILE, crate::base::MAX_MODEL_BYTES)?;
        }
        if let Some(file) = &options.labels {
            put(file, LABELS_FILE, LONGEST_LABELS)?;
            config.labels = Some(LABELS_FILE.into());
        }
        if let Some(file) = &options.tokenizer {
            put(file, TOKENIZER_FILE, 1 << 28)?;
            config.tokenizer = Some(TOKENIZER_FILE.into());
        }
        config.write(&disk, path)?;
        Home::open(path)
    }

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

    /// Opens the home in `path`, all of whose files but the model and the tokenizer are used through `disk`.
    pub(super) fn open_on(disk: Arc<dyn Disk>, path: &Path, key: Option<Key>) -> Result<Home> {
        let config = Config::read(&*disk, path)?;
        let key = config.key(&*disk, path, key)?;
        let model = path.join(&config.model);
        // A model that nobody has looked at is not even parsed.
        let base = Base::open_if(&model, &|found| match found.to_string() == config.fingerprint {
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
        let tokenizer = config.tokenizer.as_ref().map(|file| path.join(file));
        let intake = IntakeKind::new(&base, &config, tokenizer.as_deref())?;
        let Answering { engine, features, base_classes } = Answering::new(Arc::new(base), &config, &intake)
            .map_err(|e| if e.place().is_none() { e.at(path.display()) } else { e })?;
        let mut labels = listed;
        for class in labels.len()..base_classes {
            labels.push(class.to_string());
        }
        let path = path.to_path_buf();
        Ok(Home(Arc::new(HomeInner { path, config, engine, intake, labels, disk, key, features, base_classes })))
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
        self.intake().takes()
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
    #[cfg(feature = "bundles")]
    pub(crate) fn profile_disk(&self, profile: &str) -> Arc<dyn Disk> {
        keyed(self.0.disk.clone(), self.0.key.as_ref(), profile)
    }
    /// Names of the profiles, sorted.
    pub fn profiles(&self) -> Result<Vec<String>> {
        let folder = self.0.path.join("profiles");
        match self.0.disk.exists(&folder).and_then(|there| if there { self.0.disk.list(&folder) } else { Ok(vec![]) }) {
            Ok(names) => Ok(names.into_iter().filter(|n| !n.starts_with('.') && folder.join(n).is_dir()).collect()),
            Err(e) => Err(Error::io("cannot list the profiles", &folder, e)),
        }
    }

    #[cfg(feature = "train")]
    internal! {
        /// Which sites adapt, and what that costs.
        pub fn summary(&self) -> Result<crate::adapt::select::Summary> {
            let inner = &self.0;
            crate::adapt::select::summarise(
                &inner.engine.base,
                inner.engine.task,
                &Pattern::new(&inner.config.sites),
                inner.config.rank,
                &inner.config.limits,
            )
        }
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("path", &self.0.path).field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// `disk` with the cipher of a profile, where there is a key.
pub(super) fn keyed(disk: Arc<dyn Disk>, key: Option<&Key>, profile: &str) -> Arc<dyn Disk> {
    match key {
        Some(key) => Arc::new(KeyedDisk::new(disk, Cipher::new(key, profile))),
        None => disk,
    }
}

/// The key of a new home in `home`: the one that `source` has, or a new one in a file that is not there yet.
fn made_key(disk: &dyn Disk, home: &Path, source: &KeySource) -> Result<Key> {
    let KeySource::KeyFile(file) = source else { return source.load(disk) };
    let inside = |path: &Path| std::path::absolute(path).map_err(|e| Error::io("cannot find the folder of", path, e));
    if inside(file)?.starts_with(inside(home)?) {
        return Err(Error::usage("the key is to be in the home that it encrypts")
            .at(file.display())
            .hint("keep it elsewhere, best on other storage: who has both has everything"));
    }
    if disk.exists(file).map_err(|e| Error::io("cannot look for the key file", file, e))? {
        return source.load(disk);
    }
    let key = Key::random()?;
    key.write(disk, file)?;
    Ok(key)
}

/// The source by a path that is the same from everywhere.
fn absolute(source: &KeySource) -> Result<KeySource> {
    Ok(match source {
        KeySource::KeyFile(file) => {
            KeySource::KeyFile(std::path::absolute(file).map_err(|e| Error::io("cannot find the folder of", file, e))?)
        }
        other => other.clone(),
    })
}

fn no_site(base: &Base, pattern: &Pattern) -> Error {
    Error::usage(format!("no site matches {:?}", pattern.to_string()))
        .at(base.path().display())
        .hint("`acclimate inspect` lists the names; `*` stands for anything")
}

pub(super) fn read_labels(disk: &dyn Disk, file: &Path) -> Result<Vec<String>> {
    let bytes = read_file(disk, file, LONGEST_LABELS)?;
    label::list(&bytes).map_err(|e| e.within(file.display()))
}
