//! Labelled sets for `simulate` and `eval`: an `.npz` with `x`, `y` and optionally `user`; a `.tsv` of label⇥text; or a folder of
//! pictures with one sub-folder per label. The order of the file is the order of time.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::RawInput as Input;
use super::arrays::{self, MAX_BYTES};
use super::folder::{self, Folder, Skipped};
use super::npy::RawArray;
use super::{image, label};
use crate::error::{Error, Result};

/// Largest `.tsv` that is read: 256 MiB.
const MAX_TSV_BYTES: u64 = 256 << 20;

/// Examples with labels in order of time. Inputs are converted, or read from their files, one at a time when asked for.
#[derive(Clone, Debug)]
pub struct LabelledSet {
    inputs: Arc<Inputs>,
    /// Position of each example in `inputs`.
    order: Vec<usize>,
    labels: Vec<String>,
    users: Option<Vec<i64>>,
    skipped: Arc<Vec<Skipped>>,
}

#[derive(Debug)]
enum Inputs {
    /// Arrays with one row per example.
    Rows(Vec<RawArray>),
    Texts(Vec<String>),
    Pictures(Vec<PathBuf>),
}

impl LabelledSet {
    /// Reads a labelled set: a folder, a `.tsv` (or `.txt`) file, or an `.npz` archive.
    ///
    /// Errors name the file and the line, array or index that is wrong. Of a folder, what is no picture or a damaged
    /// one is left out: [`LabelledSet::skipped`]. For that every picture is decoded once here, on all cores, and not
    /// kept.
    pub fn read(path: impl AsRef<Path>) -> Result<LabelledSet> {
        let path = path.as_ref();
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let set = match extension.as_deref() {
            _ if path.is_dir() => read_folder(path)?,
            Some("tsv" | "txt") => read_tsv(path)?,
            Some("npz") => read_npz(path)?,
            _ => {
                return Err(Error::bad_data("unknown sort of labelled data")
                    .at(path.display())
                    .hint("give an .npz with x and y, a .tsv of label and text, or a folder of pictures with one sub-folder per label"));
            }
        };
        if set.is_empty() {
            return Err(Error::bad_data("labelled data without an example").at(path.display()));
        }
        Ok(set)
    }

    fn new(inputs: Inputs, labels: Vec<String>, users: Option<Vec<i64>>) -> LabelledSet {
        let (order, skipped) = ((0..labels.len()).collect(), Arc::default());
        LabelledSet { inputs: Arc::new(inputs), order, labels, users, skipped }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True without examples.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Label of each example.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// User of each example, if the data says.
    pub fn users(&self) -> Option<&[i64]> {
        self.users.as_deref()
    }

    /// What the data holds beside the examples: files of other formats, damaged ones, labels without a picture. A part
    /// of a set says the same as the whole.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Input of example `i`. Errors: no such example; a picture that cannot be read.
    pub fn input(&self, i: usize) -> Result<Input> {
        let absent = || Error::usage(format!("example {i} of {} asked for", self.len()));
        let &at = self.order.get(i).ok_or_else(absent)?;
        match &*self.inputs {
            Inputs::Rows(columns) => {
                let row =
                    |a: &RawArray| a.row(at).map(|r| super::NamedArray { name: model_input(&a.name).to_owned(), ..r });
                Ok(Input::Arrays(columns.iter().map(row).collect::<Result<_>>()?))
            }
            Inputs::Texts(texts) => texts.get(at).map(|t| Input::Text(t.clone())).ok_or_else(absent),
            Inputs::Pictures(paths) => image::read(paths.get(at).ok_or_else(absent)?).map(Input::Image),
        }
    }

    /// Distinct labels: by value when all are numbers, otherwise alphabetically.
    pub fn classes(&self) -> Vec<String> {
        let mut classes: Vec<&String> = self.labels.iter().collect::<HashSet<_>>().into_iter().collect();
        classes.sort();
        if classes.iter().all(|c| c.parse::<i64>().is_ok()) {
            classes.sort_by_key(|c| c.parse::<i64>().ok());
        }
        classes.into_iter().cloned().collect()
    }

    /// The examples at these positions, in this order. Error: a position that does not exist.
    pub fn select(&self, positions: &[usize]) -> Result<LabelledSet> {
        fn pick<T: Clone>(from: &[T], positions: &[usize]) -> Result<Vec<T>> {
            let one = |&i: &usize| {
                from.get(i).cloned().ok_or_else(|| Error::usage(format!("example {i} of {} asked for", from.len())))
            };
            positions.iter().map(one).collect()
        }
        Ok(LabelledSet {
            inputs: Arc::clone(&self.inputs),
            order: pick(&self.order, positions)?,
            labels: pick(&self.labels, positions)?,
            users: self.users.as_ref().map(|u| pick(u, positions)).transpose()?,
            skipped: Arc::clone(&self.skipped),
        })
    }

    /// One user's examples, order kept. Errors: the data names no users, or not this one (those it has are named).
    pub fn filter_user(&self, user: i64) -> Result<LabelledSet> {
        let users = self.users().ok_or_else(|| {
            Error::usage("the labelled data does not say whose each example is")
                .hint("add an integer array 'user' to the .npz")
        })?;
        let positions: Vec<usize> = (0..users.len()).filter(|&i| users.get(i) == Some(&user)).collect();
        if positions.is_empty() {
            let mut known: Vec<i64> = users.iter().copied().collect::<HashSet<_>>().into_iter().collect();
            known.sort_unstable();
            let named: Vec<String> = known.iter().take(40).map(i64::to_string).collect();
            return Err(
                Error::usage(format!("no example of user {user}")).hint(format!("the users are {}", named.join(", ")))
            );
        }
        self.select(&positions)
    }

    /// True when each label's examples lie in one run, as in sorted data, so that the order cannot be one of time.
    pub fn is_grouped_by_label(&self) -> bool {
        let runs = 1 + self.labels.iter().zip(self.labels.iter().skip(1)).filter(|(a, b)| a != b).count();
        let distinct = self.labels.iter().collect::<HashSet<_>>().len();
        distinct > 1 && runs == distinct && self.len() > distinct
    }

    /// The same examples in an order drawn from `seed`; the same on every machine.
    pub fn shuffled(&self, seed: u64) -> Result<LabelledSet> {
        let mut positions: Vec<usize> = (0..self.len()).collect();
        positions.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        self.select(&positions)
    }
}

/// Name of the model input that an archive's array is for: `x` stands for the only one.
fn model_input(array: &str) -> &str {
    if array == "x" { "" } else { array }
}

fn read_npz(path: &Path) -> Result<LabelledSet> {
    let within = |name: &str| format!("{}, array '{name}'", path.display());
    let mut arrays = arrays::read_raw(path, MAX_BYTES)?;
    let mut take = |name: &str| arrays.iter().position(|a| a.name == name).map(|i| arrays.swap_remove(i));
    let y = take("y").ok_or_else(|| {
        Error::bad_data("labelled data without an array 'y'")
            .at(path.display())
            .hint("save it with numpy.savez(file, x=..., y=...)")
    })?;
    let user = take("user");
    let mut columns: Vec<RawArray> = take("x").into_iter().collect();
    if columns.is_empty() {
        columns = arrays; // a model with several inputs: arrays by their names
        columns.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let rows = y.rows();
    let flat = |a: &RawArray| a.shape.iter().skip(1).all(|&d| d == 1) && !a.shape.is_empty();
    for vector in [Some(&y), user.as_ref()].into_iter().flatten() {
        if !flat(vector) {
            return Err(Error::bad_data(format!("shape {:?} where one value per example is needed", vector.shape))
                .at(within(&vector.name)));
        }
    }
    if columns.is_empty() {
        return Err(Error::bad_data("labelled data without an array 'x'").at(path.display()));
    }
    for a in columns.iter().chain(&user) {
        if a.shape.is_empty() || a.rows() != rows {
            return Err(
                Error::bad_data(format!("shape {:?} where 'y' has {rows} examples", a.shape)).at(within(&a.name))
            );
        }
    }
    let labels = y.strings().map_err(|e| e.at(within("y")))?;
    let clean = |(i, l): (usize, &String)| label::clean(l).map_err(|e| e.at(format!("{}, index {i}", within("y"))));
    let labels: Vec<String> = labels.iter().enumerate().map(clean).collect::<Result<_>>()?;
    let users = user.map(|u| u.integers().map_err(|e| e.at(within("user")))).transpose()?;
    let inputs = match columns.as_slice() {
        [one] if one.is_text() => Inputs::Texts(one.strings().map_err(|e| e.at(within(&one.name)))?),
        _ => {
            for a in &columns {
                a.check_rows().map_err(|e| e.at(within(&a.name)))?;
            }
            Inputs::Rows(columns)
        }
    };
    Ok(LabelledSet::new(inputs, labels, users))
}

fn read_tsv(path: &Path) -> Result<LabelledSet> {
    let cannot = |e| Error::io("cannot read the labelled data", path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(MAX_TSV_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_TSV_BYTES {
        return Err(Error::bad_data(format!("a file of more than {MAX_TSV_BYTES} bytes")).at(path.display()));
    }
    let (mut labels, mut texts) = (Vec::new(), Vec::new());
    for (i, line) in label::lines(&bytes).enumerate() {
        let place = format!("{}, line {}", path.display(), i + 1);
        let wrong = |why: &str| {
            Error::bad_data(format!("malformed line: {why}"))
                .at(&place)
                .hint("write each line as label, tab, text, in UTF-8")
        };
        let line = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8"))?;
        if line.trim().is_empty() {
            continue;
        }
        let (label, text) = line.split_once('\t').ok_or_else(|| wrong("no tab between label and text"))?;
        let (label, text) = (label.trim(), text.trim());
        match (label, text) {
            ("", _) => return Err(wrong("no label before the tab")),
            (_, "") => return Err(wrong("no text after the tab")),
            (_, t) if t.contains('\t') => return Err(wrong("more than one tab")),
            _ => {}
        }
        labels.push(label::clean(label).map_err(|e| e.at(&place))?);
        texts.push(text.to_owned());
    }
    Ok(LabelledSet::new(Inputs::Texts(texts), labels, None))
}

fn read_folder(path: &Path) -> Result<LabelledSet> {
    let Folder { labels, pictures, skipped } = folder::read(path)?;
    Ok(LabelledSet { skipped: Arc::new(skipped), ..LabelledSet::new(Inputs::Pictures(pictures), labels, None) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::input::arrays::{ArrayData, NamedArray, write_npz};
    use crate::input::{Intake, Preprocessing, RgbImage, TextEncoder};

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn archive(arrays: &[(&str, &[usize], ArrayData)]) -> (tempfile::TempDir, PathBuf) {
        let (dir, path) = write("d.npz", b"");
        let arrays: Vec<NamedArray> = arrays
            .iter()
            .map(|(n, s, d)| NamedArray { name: (*n).into(), shape: s.to_vec(), data: d.clone() })
            .collect();
        write_npz(&path, &arrays).unwrap();
        (dir, path)
    }

    #[test]
    fn archives_of_rows() {
        let x = ArrayData::F32((0..8).map(|v| v as f32).collect());
        let y = ArrayData::I64(vec![10, 2, 10, 2]);
        let user = ArrayData::U8(vec![1, 1, 7, 7]);
        let (_dir, path) = archive(&[("x", &[4, 2], x.clone()), ("y", &[4], y.clone()), ("user", &[4], user)]);
        let set = LabelledSet::read(&path).unwrap();
        assert_eq!(
            (set.len(), set.classes(), set.users()),
            (4, vec!["2".into(), "10".into()], Some(&[1, 1, 7, 7][..]))
        );
        let mine = set.filter_user(7).unwrap();
        assert_eq!(mine.labels(), ["10", "2"]);
        let expected = NamedArray { name: String::new(), shape: vec![2], data: ArrayData::F32(vec![4.0, 5.0]) };
        assert_eq!(mine.input(0).unwrap(), Input::Arrays(vec![expected]));
        assert!(mine.input(2).is_err() && set.select(&[4]).is_err());
        assert!(set.filter_user(3).unwrap_err().next_step().unwrap().contains("1, 7"));

        // several inputs keep their names
        let (_dir, path) = archive(&[("b", &[4], y.clone()), ("a", &[4, 2], x.clone()), ("y", &[4, 1], y.clone())]);
        let set = LabelledSet::read(&path).unwrap();
        let Input::Arrays(inputs) = set.input(1).unwrap() else { panic!() };
        assert_eq!(inputs.iter().map(|a| (a.name.as_str(), a.shape.len())).collect::<Vec<_>>(), [("a", 1), ("b", 0)]);
        assert!(set.filter_user(1).is_err());
    }

    #[test]
    fn malformed_archives_are_refused() {
        let x = ArrayData::F32(vec![0.0; 8]);
        let y = |n| ArrayData::I64(vec![0; n]);
        type Named<'a> = (&'a str, &'a [usize], ArrayData);
        let cases: Vec<(Vec<Named>, &str)> = vec![
            (vec![("x", &[4, 2], x.clone())], "without an array 'y'"),
            (vec![("y", &[4], y(4))], "without an array 'x'"),
            (vec![("x", &[4, 2], x.clone()), ("y", &[3], y(3))], "array 'x'"),
            (vec![("x", &[4, 2], x.clone()), ("y", &[4, 2], y(8))], "one value per example"),
            (vec![("x", &[4, 2], x.clone()), ("y", &[4], ArrayData::F32(vec![0.0; 4]))], "integers"),
            (vec![("x", &[4, 2], x.clone()), ("y", &[4], y(4)), ("user", &[2], y(2))], "array 'user'"),
            (vec![("x", &[0, 2], ArrayData::F32(vec![])), ("y", &[0], y(0))], "without an example"),
        ];
        for (arrays, expected) in cases {
            let (_dir, path) = archive(&arrays);
            let e = LabelledSet::read(&path).unwrap_err();
            assert!(e.kind() == ErrorKind::BadData && e.to_string().contains(expected), "{e}");
        }
        let mut bad = vec![0.0; 8];
        bad[5] = f32::NAN;
        let (_dir, path) = archive(&[("x", &[4, 2], ArrayData::F32(bad)), ("y", &[4], y(4))]);
        let e = LabelledSet::read(&path).unwrap_err().to_string();
        assert!(e.contains("[2, 1]") && e.contains("array 'x'"), "{e}");
        assert_eq!(LabelledSet::read(Path::new("absent.npz")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(LabelledSet::read(Path::new("absent.csv")).unwrap_err().kind(), ErrorKind::BadData);
    }

    #[test]
    fn lines_of_label_and_text() {
        let (_dir, path) = write("d.tsv", "\u{feff}on\tturn it on\r\n\noff\t stop é \n".as_bytes());
        let set = LabelledSet::read(&path).unwrap();
        assert_eq!(set.labels(), ["on", "off"]);
        assert_eq!(set.input(1).unwrap(), Input::Text("stop é".into()));
        let cases: [(&[u8], &str); 6] = [
            (b"a\tb\nno tab here\n", "line 2"),
            (b"a\tb\n\n\tx\n", "line 3"),
            (b"a\t \n", "no text"),
            (b"a\tb\tc\n", "more than one tab"),
            (b"a\tb\na\t\xff\xfe\n", "line 2"),
            (b"\n\n", "without an example"),
        ];
        for (bytes, expected) in cases {
            let (_dir, path) = write("d.tsv", bytes);
            let e = LabelledSet::read(&path).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadData);
            assert!(e.to_string().contains(expected), "{e}");
        }
    }

    /// The same three labels from every reader, whatever surrounds them in the file.
    #[test]
    fn labels_are_cleaned_alike_by_every_reader() {
        let (_dir, tsv) = write("d.tsv", b"\xef\xbb\xbfcat\ta\r\ncat \tb\r\xc2\xa0dog\tc\n");
        assert_eq!(LabelledSet::read(&tsv).unwrap().labels(), ["cat", "cat", "dog"]);
        let cells = ["\u{feff}cat", "cat ", "dog\r\n"];
        let utf32: Vec<u8> = cells.iter().flat_map(|c| padded(c, 6)).flat_map(|c| (c as u32).to_le_bytes()).collect();
        let y = crate::input::npy::tests::npy("'<U6'", false, "(3,)", &utf32);
        let x = crate::input::npy::tests::npy("'|u1'", false, "(3, 1)", &[1, 2, 3]);
        let (_dir, npz) = write("d.npz", b"");
        let mut zip = zip::ZipWriter::new(File::create(&npz).unwrap());
        for (name, bytes) in [("x.npy", x), ("y.npy", y)] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            std::io::Write::write_all(&mut zip, &bytes).unwrap();
        }
        zip.finish().unwrap();
        assert_eq!(LabelledSet::read(&npz).unwrap().labels(), ["cat", "cat", "dog"]);
        let (_dir, tsv) = write("d.tsv", b"cat\ta\ncat\x1b[31m\tb\n");
        let e = LabelledSet::read(&tsv).unwrap_err().to_string();
        assert!(e.contains("line 2") && e.contains("control"), "{e}");
    }

    fn padded(text: &str, length: usize) -> Vec<char> {
        text.chars().chain(std::iter::repeat('\0')).take(length).collect()
    }

    #[test]
    fn folders_of_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let png = |v: u8| image::encode_png(&RgbImage::from_fn(3, 2, |_, _| [v; 3])).unwrap();
        for (folder, file, v) in [("dog", "b.png", 2), ("dog", "a.PNG", 1), ("cat", "z.png", 3)] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join(file), png(v)).unwrap();
        }
        std::fs::write(dir.path().join("dog/.hidden.png"), b"x").unwrap();
        std::fs::write(dir.path().join("dog/notes.txt"), b"x").unwrap();
        std::fs::write(dir.path().join("LICENSE"), b"x").unwrap();
        std::fs::create_dir_all(dir.path().join("dog/more")).unwrap();
        std::fs::create_dir(dir.path().join("fish")).unwrap();
        std::fs::write(dir.path().join("dog/c.png"), &png(4)[..40]).unwrap();
        let set = LabelledSet::read(dir.path()).unwrap();
        assert_eq!(set.labels(), ["cat", "dog", "dog"]);
        let levels: Vec<u8> = (0..3)
            .map(|i| match set.input(i).unwrap() {
                Input::Image(p) => p.pixel(0, 0)[0],
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(levels, [3, 1, 2]);
        assert!(set.is_grouped_by_label());

        // Whatever was left out is named, by one set and by its parts.
        let expected = [
            ("LICENSE", "not in a folder"),
            ("dog/c.png", "damaged picture"),
            ("dog/more", "within the folder of a label"),
            ("dog/notes.txt", "not a .png, .jpg or .webp"),
            ("fish", "no picture for this label"),
        ];
        let part = set.select(&[0]).unwrap();
        for skipped in [set.skipped(), part.skipped()] {
            assert_eq!(skipped.len(), expected.len(), "{skipped:?}");
            for (s, (file, reason)) in skipped.iter().zip(expected) {
                assert_eq!(s.file, dir.path().join(file));
                assert!(s.reason.contains(reason) && !s.reason.contains("c.png"), "{s:?}");
            }
        }

        let damaged = tempfile::tempdir().unwrap();
        std::fs::create_dir(damaged.path().join("cat")).unwrap();
        std::fs::write(damaged.path().join("cat/broken.jpg"), b"x").unwrap();
        let e = LabelledSet::read(damaged.path()).unwrap_err().to_string();
        assert!(e.contains("broken.jpg") && e.contains("2 left out"), "{e}");
        let empty = tempfile::tempdir().unwrap();
        assert!(LabelledSet::read(empty.path()).unwrap_err().to_string().contains("without pictures"));
    }

    #[test]
    fn shuffling_is_deterministic_and_complete() {
        let lines: String = (0..40).map(|i| format!("{}\ttext {i}\n", i / 20)).collect();
        let (_dir, path) = write("d.tsv", lines.as_bytes());
        let set = LabelledSet::read(&path).unwrap();
        assert!(set.is_grouped_by_label());
        let texts = |s: &LabelledSet| (0..s.len()).map(|i| format!("{:?}", s.input(i).unwrap())).collect::<Vec<_>>();
        let (a, b) = (set.shuffled(1).unwrap(), set.shuffled(1).unwrap());
        assert!(!a.is_grouped_by_label());
        assert_eq!(texts(&a), texts(&b));
        assert_ne!(texts(&a), texts(&set.shuffled(2).unwrap()));
        let (mut sorted, mut all) = (texts(&a), texts(&set));
        sorted.sort();
        all.sort();
        assert_eq!(sorted, all);
    }

    #[test]
    fn bundled_sets_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let har = LabelledSet::read(dir.join("hapt_users_23_26.npz")).unwrap();
        assert_eq!((har.len(), har.classes().len(), har.is_grouped_by_label()), (1572, 12, false));
        let person = har.filter_user(23).unwrap();
        assert_eq!(person.len(), 370);
        let example = Intake::Arrays.example(&person.input(0).unwrap()).unwrap();
        assert_eq!((example.arrays[0].name.as_str(), example.arrays[0].shape.as_slice()), ("", &[6, 128][..]));

        let digits = LabelledSet::read(dir.join("digits/test")).unwrap();
        let preprocessing = Preprocessing { size: [32, 32], ..Default::default() };
        let example = Intake::Image(&preprocessing).example(&digits.input(49).unwrap()).unwrap();
        assert_eq!(
            (digits.len(), digits.classes().len(), digits.is_grouped_by_label(), example.arrays[0].shape.as_slice()),
            (50, 10, true, &[3, 32, 32][..])
        );

        let intents = LabelledSet::read(dir.join("sentences_test.tsv")).unwrap();
        assert_eq!((intents.len(), intents.classes().len(), intents.is_grouped_by_label()), (50, 5, false));
        let encoder = TextEncoder::load(&dir.join("intents_tokenizer.json"), 32).unwrap();
        for i in 0..intents.len() {
            Intake::Text(&encoder).example(&intents.input(i).unwrap()).unwrap();
        }
    }
}
