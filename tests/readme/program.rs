use acclimate::{Feedback, Home, InitOptions, Result};

fn main() -> Result<()> {
    let home = Home::init("door", &InitOptions::new("models/digits_cnn.onnx"))?; // later: Home::open("door")?
    let session = home.session("ada")?;
    let answer = session.predict(&home.read("models/digits/feedback/8/1.png")?)?;
    if let Some(id) = answer.id {
        session.feedback(id, Feedback::NewLabel("8".into()))?;
    }
    println!("{:?}, answered by generation {}", answer.label(), answer.generation);
    Ok(())
}
