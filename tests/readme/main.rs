//! The program in the README is `tests/readme/program.rs`, and it runs.

use std::path::Path;

mod program {
    include!("program.rs");

    pub fn run() -> Result<()> {
        main()
    }
}

#[test]
fn the_program_in_the_readme_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let program = include_str!("program.rs");
    assert!(readme.contains(program), "the README shows another program than tests/readme/program.rs:\n{program}");

    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("models"), folder.path().join("models")).unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    program::run().unwrap();
    let home = acclimate::Home::open("door").unwrap();
    assert_eq!(home.session("ada").unwrap().status().unwrap().feedback, 1);
}
