//! Times what happens while a person uses a model: `cargo bench --bench runtime`.
//!
//! A small timing loop of its own, no statistics beyond the smallest and the middle value. For a model of your own use
//! `acclimate bench`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use acclimate::disk::RealDisk;
use acclimate::input::LabelledSet;
use acclimate::journal::{Dtype, InteractionId, JournalWriter, Record, StoredArray, StoredInput};
use acclimate::runtime::TrainOptions;
use acclimate::{Feedback, Home, InitOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs `work` for about half a second after a warm-up; prints the smallest and the middle duration.
fn time<T>(name: &str, mut work: impl FnMut() -> Result<T>) -> Result<()> {
    for _ in 0..3 {
        black_box(work()?);
    }
    let (began, mut runs) = (Instant::now(), vec![]);
    while runs.len() < 10 || (began.elapsed() < Duration::from_millis(500) && runs.len() < 10_000) {
        let start = Instant::now();
        black_box(work()?);
        runs.push(start.elapsed().as_secs_f64() * 1e6);
    }
    runs.sort_by(f64::total_cmp);
    println!("{name:<44} {:>10.1} µs min {:>10.1} µs median   {} runs", runs[0], runs[runs.len() / 2], runs.len());
    Ok(())
}

fn show(name: &str, t: acclimate::tools::bench::Timing, to_micros: f64) {
    println!("{name:<44} {:>10.1} µs min {:>10.1} µs median", t.min * to_micros, t.median * to_micros);
}

fn main() -> Result<()> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let model = models.join("har_cnn.onnx");
    let folder = tempfile::tempdir()?;
    let windows = LabelledSet::read(models.join("hapt_users_23_26.npz"))?.filter_user(23)?;
    let input = windows.input(0)?;

    println!("forward and backward alone, activity CNN, all sites");
    let one = acclimate::tools::bench::Options { batch: 1, repeats: 100, ..Default::default() };
    let report = acclimate::tools::bench::run(&model, &one)?;
    show("predict, base", report.predict_ms, 1e3);
    show("predict, low-rank inputs", report.adapted_predict_ms, 1e3);
    show("predict, merged weights", report.merged_predict_ms, 1e3);
    let eight = acclimate::tools::bench::Options { repeats: 30, ..Default::default() };
    if let Some(step) = acclimate::tools::bench::run(&model, &eight)?.train_step_ms {
        show("training step, 8 windows, 1 thread", step, 1e3);
    }
    show("adapter file read, verified and made ready", report.swap_us, 1.0);

    println!("a session, with its record in the journal");
    let home = Home::init(folder.path().join("home"), &InitOptions::new(&model))?;
    let session = home.session("p")?;
    time("predict, base", || Ok(session.predict(&input)?))?;
    for i in (0..windows.len()).step_by(5) {
        let said = match windows.labels()[i].as_str() {
            "5" => Feedback::NewLabel("resting".into()),
            label => Feedback::NewLabel(label.into()),
        };
        let id = session.predict(&windows.input(i)?)?.id.ok_or("the prediction was not recorded")?;
        session.feedback(id, said)?;
    }
    let trained = session.train(&TrainOptions::default())?;
    if !trained.promoted {
        return Err(trained.verdict.reason.into());
    }
    // The first answers of a generation on probation are synced.
    for _ in 0..=session.status()?.probation_left {
        session.predict(&input)?;
    }
    time("predict, adapted", || Ok(session.predict(&input)?))?;
    let mut to = 0;
    time("swap between generation 1 and the base", || {
        let now = session.rollback(Some(to))?;
        to = 1 - to;
        Ok(now)
    })?;
    if session.status()?.generation == 0 {
        session.rollback(Some(1))?;
    }
    let session = session.merged()?;
    time("predict, merged", || Ok(session.predict(&input)?))?;

    println!("the journal, records of one window (3 KiB)");
    let path = folder.path().join("journal.log");
    JournalWriter::create(&RealDisk, &path, 0)?;
    let mut journal = JournalWriter::open(Arc::new(RealDisk), &path)?;
    let array = StoredArray { name: String::new(), dtype: Dtype::F32, shape: vec![6, 128], data: vec![0; 6 * 128 * 4] };
    let mut next = 0;
    let mut record = || {
        let id = InteractionId(next);
        next += 1;
        let input = StoredInput::Arrays(vec![array.clone()]);
        Record::Interaction { id, at_ms: 0, input, top: vec![("walking".into(), 0.9)], generation: 0 }
    };
    time("append", || Ok(journal.append(record())?))?;
    time("append, durable", || Ok(journal.append_durable(record())?))?;
    Ok(())
}
