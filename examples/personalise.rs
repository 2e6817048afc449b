//! A model learns from one person: predict, give feedback, train, predict again.
//!
//! `cargo run --release --example personalise`

use std::path::Path;

use acclimate::{Feedback, Home, InitOptions, LabelledSet, TrainOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let folder = tempfile::tempdir()?;
    let home = Home::init(folder.path().join("home"), &InitOptions::new(models.join("har_cnn.onnx")))?;
    let session = home.session("ada")?;

    // Person 23 wears the phone; every fifth window is shown, and she says what she was doing.
    let windows = LabelledSet::read(models.join("hapt_users_23_26.npz"))?.filter_user(23)?;
    let known = |i: &usize| windows.labels()[*i].parse::<u8>().is_ok_and(|class| class < 6);
    let (mut shown, mut right) = (0, 0);
    for i in (0..windows.len()).step_by(5).filter(known) {
        let answer = session.predict(&windows.input(i)?)?;
        let truth = &windows.labels()[i];
        (shown, right) = (shown + 1, right + usize::from(answer.label() == Some(truth)));
        if let Some(id) = answer.id {
            session.feedback(id, Feedback::Label(truth.clone()))?;
        }
    }
    println!("before: {right} of {shown} right");

    let report = session.train(&TrainOptions::default())?;
    println!("training: {} ({:.1} s)", report.verdict.reason, report.seconds);

    let (mut asked, mut right) = (0, 0);
    for i in (2..windows.len()).step_by(5).filter(known) {
        let answer = session.predict(&windows.input(i)?)?;
        (asked, right) = (asked + 1, right + usize::from(answer.label() == Some(&windows.labels()[i])));
    }
    println!("after:  {right} of {asked} others right, answered by generation {}", report.generation);
    Ok(())
}
