//! The `acclimate` program: parse, run, exit code.

#[cfg_attr(not(feature = "train"), allow(dead_code, unused_imports, unused_mut))] // training's share of it
mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::Cli;
use cli::output::{Output, report_panic};

fn main() -> ExitCode {
    cli::allocator::keep_freed();
    let wants_json = std::env::args_os().take_while(|a| a != "--").any(|a| a == "--json");
    std::panic::set_hook(Box::new(move |info| report_panic(wants_json, info)));
    cli::lost_file::tell(wants_json);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e, wants_json),
    };
    log_to_stderr();
    let output = Output { json: cli.json, quiet: cli.quiet };
    match cli.command.run(&output) {
        Ok(code) => code,
        Err(e) => {
            output.error(&e);
            ExitCode::from(e.kind().exit_code())
        }
    }
}

/// Help and version go to stdout and succeed; everything else that clap says is a usage error (exit 2).
fn usage(e: &clap::Error, wants_json: bool) -> ExitCode {
    if !e.use_stderr() {
        return match e.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(74),
        };
    }
    if wants_json {
        cli::output::usage_as_json(&e.to_string());
    } else {
        // Nothing is left to tell it to when standard error is gone.
        let _ = e.print();
    }
    ExitCode::from(2)
}

/// Warnings, or what `ACCLIMATE_LOG` asks for (`debug`, `acclimate=trace`, `off`).
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("ACCLIMATE_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // Another subscriber would only mean that the log goes there.
    let _ = subscriber.without_time().with_target(false).try_init();
}
