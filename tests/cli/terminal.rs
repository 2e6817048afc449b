//! `chat` in a terminal, which the program `script` of util-linux makes.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use tempfile::TempDir;

use crate::program::json as answered;
use crate::{endless, texts};

/// What a line editor writes once when it begins to read a line.
const READS: &str = "\u{1b}[?2004h";

struct Terminal {
    program: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    lines: usize,
}

impl Terminal {
    fn of_chat(home: &str) -> Terminal {
        let mut script = Command::new("script");
        let command = format!("exec '{}' chat '{home}'", cargo_bin("acclimate").display());
        script.args(["-q", "-e", "-c", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        script.env("TERM", "xterm").env("SHELL", "/bin/sh").env_remove("VISUAL").env_remove("EDITOR");
        let mut program = script.spawn().expect("`script` of util-linux runs");
        let (keys, mut out) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(vec![]));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut some) {
                shown.lock().unwrap().extend_from_slice(&some[..n]);
            }
        });
        Terminal { program, keys, screen, lines: 0 }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !holds(&self.shown()) {
            assert!(started.elapsed() < Duration::from_secs(60), "no {what}: {:?}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the next line is read, and types it.
    fn types(&mut self, keys: &str) {
        self.lines += 1;
        self.wait_until("prompt", |shown| shown.matches(READS).count() == self.lines);
        self.press(keys);
    }

    fn ends(mut self) -> String {
        assert!(self.program.wait().unwrap().success(), "{}", self.shown());
        self.shown()
    }
}

#[test]
fn an_answer_is_edited_on_the_line() {
    let folder = TempDir::new().unwrap();
    let (home, _) = texts::home(&folder);
    let mut terminal = Terminal::of_chat(&home);
    terminal.types("hello\r");
    terminal.types("\u{3}");
    // The answer stands there to be changed: once it is left as it was after all, once it gets a word more.
    for keys in ["/edit\r", "\u{3}", "/edit\r", " Bye.\r", "/quit\r"] {
        terminal.types(keys);
    }
    let shown = terminal.ends();
    for words in ["/quit or Ctrl-D leaves", "nothing was saved", "saved. 1 waiting"] {
        assert!(shown.contains(words), "no {words:?} in {shown:?}");
    }
    let listed = answered(&["interactions", &home]);
    let answer = listed[0]["answer"]["text"].as_str().unwrap();
    assert_eq!(listed[0]["feedback"]["text"], format!("{answer} Bye."), "{listed}");
}

#[test]
fn ctrl_c_stops_an_answer_and_ctrl_d_leaves() {
    let folder = TempDir::new().unwrap();
    let home = endless::home(&folder);
    let mut terminal = Terminal::of_chat(&home);
    terminal.types("w9\r");
    terminal.wait_until("answer", |shown| shown.contains("xxxx"));
    terminal.press("\u{3}");
    terminal.types("/why\r");
    terminal.types("\u{4}");
    let shown = terminal.ends();
    assert!(shown.contains("stopped\r\n") && shown.contains("it was stopped"), "{}", &shown[shown.len() - 600..]);
    let words = endless::words(answered(&["interactions", &home])[0]["answer"]["text"].as_str().unwrap());
    assert!(words > 0 && words < endless::STOPPED, "{words}");
}
