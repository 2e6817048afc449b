//! Making a home: everything that can be wrong is found before anything is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Home;
use super::asking;
use super::config::{self, Config, Distillation, Encryption, NewClasses, StorageOptions, TextPadding};
use super::ends;
use super::first_run::first_run;
use super::home::{Answering, LONGEST_LABELS, SURVEY_LENGTH, read_labels};
use super::init_options::InitOptions;
use super::intake::{self, IntakeKind};
use super::language::{self, Language};
use super::replay::{Replayed, Staged, Told};
use super::sandbox::Trial;
use crate::adapter::Fingerprint;
use crate::base::{Base, MAX_MODEL_BYTES, Piece, Task, align, fingerprint, in_one_file};
use crate::cipher::Key;
use crate::disk::{Disk, KeySource, RealDisk, StagedFile, make_folder, read_file, sweep_unfinished};
use crate::error::{Error, Result};
use crate::input::label;
use crate::plan::survey;
use crate::sites::Pattern;

const MODEL_FILE: &str = "base.onnx";
const LABELS_FILE: &str = "labels.txt";
const TOKENIZER_FILE: &str = "tokenizer.json";
const LONGEST_TOKENIZER: u64 = 1 << 28;
/// Most tokens of a text; fewer where the tokenizer or the model says so.
const MOST_TOKENS: usize = 128;

impl Home {
    /// Makes a home in `path`, which must not be one yet: copies the model, and remembers what it takes and answers.
    ///
    /// # Errors
    /// When the model cannot be used, a file cannot be read or written, or the folder is a home already.
    pub fn init(path: impl AsRef<Path>, options: &InitOptions) -> Result<Home> {
        Home::init_telling(path, options, &mut |warning| tracing::warn!("{warning}"))
    }

    /// [`Home::init`], which hands to `tell` what the caller should know before anything is stored: that labels do not
    /// fit the model's outputs, or that another output than the first answers.
    ///
    /// # Errors
    /// As [`Home::init`].
    pub fn init_telling(path: impl AsRef<Path>, options: &InitOptions, tell: &mut dyn FnMut(&str)) -> Result<Home> {
        let (home, replayed) = Home::init_reporting(path, options, tell)?;
        for profile in replayed.iter().flat_map(|replayed| &replayed.profiles) {
            let (dropped, damaged) = (profile.dropped.count(), profile.damaged.saturating_add(profile.orphaned));
            if dropped > 0 || damaged > 0 {
                tell(&format!(
                    "profile {}: {} feedback items were replayed, {dropped} were not, and {damaged} places or records of the old \
                     journal are lost",
                    profile.profile, profile.replayed
                ));
            }
        }
        Ok(home)
    }

    internal! {
        /// [`Home::init_telling`] with what was replayed, where [`InitOptions::replaying`] asks for it.
        ///
        /// # Errors
        /// As [`Home::init`].
        pub fn init_reporting(
            path: impl AsRef<Path>,
            options: &InitOptions,
            tell: &mut dyn FnMut(&str),
        ) -> Result<(Home, Option<Replayed>)> {
            let path = path.as_ref();
            let new = NewHome { disk: &RealDisk, path, options };
            let told = new.told()?;
            new.is_possible()?;
            let model = new.model()?;
            let mut config = new.settings(&model, tell)?;
            let external = model.base.has_external_data();
            if let Some(told) = &told {
                let intake = IntakeKind::new(&model.base, &config, options.tokenizer.as_deref())?;
                told.fits(&model.base, &intake, &model.known_labels(), tell)?;
            }
            config.padding = new.first_run(model.base, &config, tell)?;
            config.encryption = new.encryption()?;
            let Some(told) = told else {
                new.store(&mut config, external)?;
                return Ok((Home::open(path)?, None));
            };
            let staged = Staged::begin(new.disk, path)?;
            NewHome { path: staged.folder(), ..new }.store(&mut config, external)?;
            let replayed = told.replay(&Home::open(staged.folder())?)?;
            staged.publish()?;
            Ok((Home::open(path)?, Some(replayed)))
        }
    }
}

/// The model of a new home, as it will answer there.
struct Model {
    base: Base,
    task: Task,
    labels: Option<Vec<String>>,
    /// Classes that it answers with.
    classes: usize,
}

impl Model {
    /// Labels that are known without feedback.
    fn known_labels(&self) -> Vec<String> {
        let named = self.labels.iter().flatten().cloned();
        let classes = if self.task == Task::Classification { self.classes } else { 0 };
        let numbered = (named.clone().count()..classes).map(|class| class.to_string());
        named.chain(numbered).collect()
    }
}

/// A home that is being made.
pub(super) struct NewHome<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) path: &'a Path,
    pub(super) options: &'a InitOptions,
}

impl NewHome<'_> {
    fn is_possible(&self) -> Result<()> {
        let settings = self.path.join(config::FILE);
        if self.disk.exists(&settings).map_err(|e| Error::io("cannot look for a home", self.path, e))? {
            return Err(Error::usage("this is a home already")
                .at(self.path.display())
                .hint("choose another folder, or remove this one first"));
        }
        asking::check(self.options.ask_rate)?;
        self.options.lora.check()?;
        match self.options.rank {
            1..=256 => Ok(()),
            rank => Err(Error::usage(format!("a rank of {rank}")).hint("choose 1 to 256; 8 is the default")),
        }
    }

    /// What was said in the old home, where there is one.
    fn told(&self) -> Result<Option<Told>> {
        let Some(old) = &self.options.from else { return Ok(None) };
        let told = Told::read(old)?;
        Staged::check(self.disk, old, self.path)?;
        if told.encrypted && self.options.key.is_none() {
            return Err(Error::usage("the old home is encrypted, and the new one is not to be")
                .at(old.display())
                .hint("add --encrypt with --key-file or --keyring: what was said would lie open otherwise"));
        }
        Ok(Some(told))
    }

    /// Opens the model and finds what answers in it, and whether anything in it can adapt.
    fn model(&self) -> Result<Model> {
        let options = self.options;
        let labels = options.labels.as_ref().map(|file| read_labels(self.disk, file)).transpose()?;
        let counted = labels.as_ref().map(Vec::len).filter(|_| options.task != Some(Task::Encoder));
        let base =
            self.opened(&Trial { output: options.model_output.clone(), classes: counted, task: options.task })?;
        let base = base.answering(options.model_output.as_deref(), counted)?.reading(options.model_input.as_deref())?;
        let task = base.task(options.task)?;
        let seen = survey(&base, task, &base.bucket(1, SURVEY_LENGTH))?;
        if !options.sites.is_all() && !seen.table.sites.iter().any(|s| options.sites.selects(s)) {
            return Err(no_site(&base, &options.sites));
        }
        Ok(Model { base, task, labels, classes: seen.classes })
    }

    /// The model, tried in a child process first where that is asked for.
    fn opened(&self, trial: &Trial) -> Result<Base> {
        let model = &self.options.model;
        let vetted = self.options.vetting.as_ref().map(|vetting| vetting.check(model, trial)).transpose()?;
        Base::open_if(model, &|found| match &vetted {
            Some(vetted) if vetted != found => {
                Err(Error::bad_data("the model changed while it was tried").at(model.display()).hint("try again"))
            }
            _ => Ok(()),
        })
    }

    /// What the home will remember of `model`; its maker is told what there is to know about it.
    fn settings(&self, model: &Model, tell: &mut dyn FnMut(&str)) -> Result<Config> {
        let (base, options) = (&model.base, self.options);
        let outcome = ends::decide(base, model.task, model.classes, model.labels.as_ref().map(Vec::len))?;
        self.bare_returns(model)?.iter().chain(&outcome.warnings).for_each(|warning| tell(warning));
        let new_classes = options.new_classes.unwrap_or(match (&model.labels, outcome.task) {
            (None, Task::Encoder) => NewClasses::Allow,
            _ => NewClasses::Ask,
        });
        let window = |file| intake::window(base, file, MOST_TOKENS);
        let read_whole = options.tokenizer.as_deref().filter(|_| model.task != Task::CausalLm);
        let max_length = read_whole.map_or(Ok(MOST_TOKENS), window)?;
        let mut image = options.image.clone().or_else(|| intake::guess_image(base));
        if let Some(image) = &mut image {
            image.tensor |= options.tensor;
        }
        Ok(Config {
            storage: StorageOptions::default(),
            threads: None,
            device: None,
            format: 1,
            model: MODEL_FILE.into(),
            fingerprint: base.fingerprint().to_string(),
            task: outcome.task.name().into(),
            labels: options.labels.as_ref().map(|_| LABELS_FILE.into()),
            tokenizer: self.tokenizer(model).map(|_| TOKENIZER_FILE.into()),
            max_length,
            rank: options.rank,
            sites: options.sites.to_string(),
            new_classes,
            disagreement_limit: 0.10,
            ask_rate: options.ask_rate,
            none_rate: 0.0,
            distillation: Distillation::default(),
            seed: 0,
            padding: TextPadding::default(),
            image,
            model_output: options.model_output.clone().or(outcome.output),
            model_input: options.model_input.clone(),
            encryption: None,
            write_budget: None,
            limits: options.limits,
            lora: options.lora.clone(),
        })
    }

    /// A warning about labels whose lines may not be what their author saw.
    fn bare_returns(&self, model: &Model) -> Result<Option<String>> {
        let (Some(file), Some(labels)) = (&self.options.labels, &model.labels) else { return Ok(None) };
        let bare = label::has_bare_returns(&read_file(self.disk, file, LONGEST_LABELS)?);
        Ok(bare.then(|| {
            format!(
                "{}: carriage returns alone end its lines; they were read as {} labels, for a model of {} classes",
                file.display(),
                labels.len(),
                model.classes
            )
        }))
    }

    /// Runs examples the whole way; the answer is whether sequences may be padded.
    fn first_run(&self, base: Base, config: &Config, tell: &mut dyn FnMut(&str)) -> Result<TextPadding> {
        if config.task == Task::CausalLm.name() {
            let folder = self.language_folder()?;
            let language = Language::open(Arc::new(base), &folder, config.threads())?;
            language.first_run()?;
            language.warnings().iter().for_each(|warning| tell(warning));
            return Ok(TextPadding::default());
        }
        let intake = IntakeKind::new(&base, config, self.options.tokenizer.as_deref())?;
        let answering = Answering::new(Arc::new(base), config, &intake)?;
        first_run(&answering.engine, &intake)
    }

    /// The folder with the tokenizer of a language model and what goes with it.
    fn language_folder(&self) -> Result<PathBuf> {
        let beside = |file: &PathBuf| file.parent().map(Path::to_path_buf);
        match &self.options.tokenizer {
            Some(file) if file.file_name().is_some_and(|name| name == language::TOKENIZER) => {
                Ok(beside(file).filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from(".")))
            }
            Some(file) => Err(Error::usage("the tokenizer of a language model is a file called tokenizer.json")
                .at(file.display())
                .hint("its chat template and its generation config are looked for beside it")),
            None => language::folder(&self.options.model).ok_or_else(|| {
                Error::usage("a language model needs its tokenizer.json")
                    .at(self.options.model.display())
                    .hint("put it beside the model, or give --tokenizer")
            }),
        }
    }

    /// The tokenizer of `model`: the one that was given, or a language model's own.
    fn tokenizer(&self, model: &Model) -> Option<PathBuf> {
        let given = || self.options.tokenizer.clone();
        let own = || self.language_folder().ok().map(|dir| dir.join(language::TOKENIZER));
        if model.task == Task::CausalLm { own() } else { given() }
    }

    /// The files of a language model that its home keeps, with their names there.
    fn language_files(&self) -> Result<Vec<(PathBuf, &'static str)>> {
        let folder = self.language_folder()?;
        let all = [language::TOKENIZER].into_iter().chain(language::OTHERS);
        Ok(all.map(|name| (folder.join(name), name)).filter(|(file, _)| file.is_file()).collect())
    }

    fn encryption(&self) -> Result<Option<Encryption>> {
        let Some(source) = &self.options.key else { return Ok(None) };
        let key = made_key(self.disk, self.path, source)?;
        Ok(Some(Encryption { mark: key.mark(), key: absolute(source)? }))
    }

    /// Writes the home, its settings last: a folder without them is no home.
    pub(super) fn store(&self, config: &mut Config, external: bool) -> Result<()> {
        make_folder(self.disk, self.path)?;
        self.store_model(config, external)?;
        if let Some(file) = &self.options.labels {
            self.put(&read_file(self.disk, file, LONGEST_LABELS)?, LABELS_FILE)?;
        }
        if config.task == Task::CausalLm.name() {
            for (file, name) in self.language_files()? {
                self.put(&read_file(self.disk, &file, LONGEST_TOKENIZER)?, name)?;
            }
        } else if let Some(file) = &self.options.tokenizer {
            self.put(&read_file(self.disk, file, LONGEST_TOKENIZER)?, TOKENIZER_FILE)?;
        }
        // What an `init` that was cut off left.
        sweep_unfinished(self.disk, self.path)?;
        config.write(self.disk, self.path)
    }

    /// Writes the model as one file, so that its hash covers every weight, and with large weights at pages of the
    /// file, so that they are used in place.
    fn store_model(&self, config: &mut Config, external: bool) -> Result<()> {
        let model = self.options.model.as_path();
        let io = |e| Error::io("cannot read the model", model, e);
        let found = self.disk.map(model, MAX_MODEL_BYTES).map_err(io)?;
        let merged;
        let bytes = if external {
            merged = in_one_file(model, &found)?;
            config.fingerprint = Fingerprint::of(&merged).to_string();
            &merged[..]
        } else {
            &found[..]
        };
        let to = self.path.join(MODEL_FILE);
        let same = |path: &Path| -> Result<bool> {
            let there = self.disk.map(path, u64::MAX).map_err(|e| Error::io("cannot read the file", path, e))?;
            Ok(fingerprint(&there).to_string() == config.fingerprint)
        };
        if self.is_there(&to)? {
            return if same(&to)? { Ok(()) } else { Err(taken(&to)) };
        }
        let aligned = align(bytes).map(|pieces| self.written(&pieces, bytes)).transpose()?;
        let mut staged = match aligned {
            // A file whose lengths take more bytes than they need does not come back to its own hash.
            Some(aligned) if same(aligned.path())? => aligned,
            _ => StagedFile::write(self.disk, self.path, bytes)?,
        };
        staged.set_read_only()?;
        staged.publish(&to)
    }

    /// A file in the home that has no name yet, of these pieces of `bytes`.
    fn written(&self, pieces: &[Piece], bytes: &[u8]) -> Result<StagedFile<'_>> {
        let mut staged = StagedFile::create(self.disk, self.path)?;
        let mut at = 0;
        for piece in pieces {
            let piece = match piece {
                Piece::New(new) => new,
                Piece::Copy(place) => bytes.get(place.clone()).unwrap_or_default(),
            };
            staged.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(staged)
    }

    /// Writes a file of the home. One of the same content is what an `init` that was cut off left.
    fn put(&self, bytes: &[u8], name: &str) -> Result<()> {
        let to = self.path.join(name);
        if self.is_there(&to)? {
            let same = read_file(self.disk, &to, MAX_MODEL_BYTES).is_ok_and(|there| there == bytes);
            return if same { Ok(()) } else { Err(taken(&to)) };
        }
        StagedFile::write(self.disk, self.path, bytes)?.publish(&to)
    }

    fn is_there(&self, to: &Path) -> Result<bool> {
        self.disk.exists(to).map_err(|e| Error::io("cannot look for a file", to, e))
    }
}

fn taken(to: &Path) -> Error {
    Error::usage("the folder holds another file of this name")
        .at(to.display())
        .hint("choose another folder for the home")
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
