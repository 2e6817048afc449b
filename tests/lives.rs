//! A few lives, played from their file through the program.
#![cfg(all(feature = "cli", feature = "train"))]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn lives(file: &Path) -> Command {
    let mut command = Command::cargo_bin("acclimate").unwrap();
    command.args(["simulate", "--json", "--lives"]).arg(file);
    command
}

#[test]
fn a_few_people_live_and_every_life_is_counted_once() {
    let out = lives(&root().join("scripts/lives/few.toml")).assert().success().get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&out).unwrap();
    let (rows, all) = (report["rows"].as_array().unwrap(), report["lives"].as_array().unwrap());
    let conditions: Vec<&str> = rows.iter().map(|r| r["condition"].as_str().unwrap()).collect();
    assert_eq!(conditions, ["clean", "ongoing", "30 % wrong"]);
    assert_eq!(all.len(), 12);
    for row in rows {
        let of_row: Vec<&Value> = all.iter().filter(|l| l["condition"] == row["condition"]).collect();
        let gains: Vec<f64> =
            of_row.iter().map(|l| l["adapted"].as_f64().unwrap() - l["base"].as_f64().unwrap()).collect();
        assert_eq!(row["lives"], 4);
        let (mean, worst) = (gains.iter().sum::<f64>() / 4.0, gains.iter().copied().fold(f64::INFINITY, f64::min));
        assert!((row["gain"].as_f64().unwrap() - mean).abs() < 1e-12);
        assert!((row["worst"].as_f64().unwrap() - worst).abs() < 1e-12);
        assert_eq!(row["harmed"].as_u64().unwrap() as usize, gains.iter().filter(|g| **g < -0.01 - 1e-9).count());
    }
    let of = |condition: &str| -> Vec<&Value> { all.iter().filter(|l| l["condition"] == condition).collect() };
    let (clean, ongoing, wrong) = (of("clean"), of("ongoing"), of("30 % wrong"));
    for (i, user) in [2, 7, 12, 22].into_iter().enumerate() {
        assert!([&clean, &ongoing, &wrong].iter().all(|lives| lives[i]["user"] == user));
        assert!(!clean[i]["trainings"].as_array().unwrap().is_empty(), "user {user}");
        let feedback = |lives: &[&Value]| lives[i]["feedback"].as_u64().unwrap();
        assert!(feedback(&ongoing) > feedback(&clean), "user {user}: feedback goes on");
    }
    let curves = |lives: &[&Value]| lives.iter().map(|l| l["curve"].clone()).collect::<Vec<_>>();
    assert_eq!(curves(&clean), curves(&ongoing), "the first halves are the same life");
    assert_ne!(curves(&clean), curves(&wrong), "wrong labels teach something else");
    assert!(rows[0]["gain"].as_f64().unwrap() > 0.01, "{}", rows[0]);
    assert_eq!((&rows[0]["harmed"], &rows[0]["longest_below"]), (&0.into(), &0.into()), "{}", rows[0]);
}

#[test]
fn what_is_wrong_with_the_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lives.toml");
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let out = lives(&file).assert().failure().get_output().clone();
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let population = format!(
        "[[population]]\nname = 'p'\nmodel = '{0}/har_cnn.onnx'\ndata = '{0}/hapt_users_23_26.npz'\nusers = [23, 99]\n",
        root().join("models").display()
    );
    let (code, text) = refused(&format!("{population}[[condition]]\nname = 'c'\nwrong = 0.1\n"));
    assert!(code == 65 && text.contains("wrong") && text.contains("lives.toml"), "{code}: {text}");
    let (code, text) = refused(&format!("{population}[[condition]]\nname = 'c'\n"));
    assert!(code == 2 && text.contains("99") && text.contains("23, 24, 25, 26"), "{code}: {text}");
    let (code, text) = refused(&format!("{population}[[condition]]\nname = 'c'\nwrong_share = 1.5\n"));
    assert!(code == 2 && text.contains("1.5"), "{code}: {text}");
    let (code, text) = refused("seeds = 3\npopulation = []\ncondition = []\n");
    assert!(code == 65 && text.contains("nobody"), "{code}: {text}");
}
