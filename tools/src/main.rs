//! The `tileweave` program. `docs/program.md` is its contract: words, JSON and exit codes.

mod bench;
mod cli;
mod described;
mod device;
mod draw;
mod explore;
mod failure;
#[allow(dead_code, reason = "ptxas's report is for the tests of the kernels")]
mod kernels;
mod layer;
mod overlap;
mod picture;
mod run;
mod text;
mod topo;
mod version;

use std::io::Write;
use std::process::ExitCode;
use std::sync::OnceLock;

use failure::{Failure, Kind};

fn main() -> ExitCode {
    device::prepare();
    // A defect must not show a backtrace to someone who cannot use it; what was wrong still goes out, in one line.
    std::panic::set_hook(Box::new(|defect| {
        drop(DEFECT.set(failure::one_line(&defect.to_string())))
    }));
    let arguments: Vec<_> = std::env::args_os().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let result = std::panic::catch_unwind(|| cli::parse(&arguments).and_then(|parsed| perform(parsed, json)));
    let result = result.unwrap_or_else(|_| Err(defect()));
    match result {
        Ok((text, code)) => {
            // A rank that does not speak for all has nothing to say.
            if !text.is_empty() {
                print(&text);
            }
            ExitCode::from(code)
        }
        Err(failure) => {
            if json {
                print(&failure.to_json());
            }
            let _ = writeln!(std::io::stderr(), "tileweave: {}", failure.message);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// What to print, and the exit code.
fn perform(parsed: cli::Parsed, json: bool) -> Result<(String, u8), Failure> {
    let text = match parsed {
        cli::Parsed::Help(text) => text,
        cli::Parsed::Version => version::describe(json)?,
        cli::Parsed::Run(args) => {
            let report = run::run(&args)?;
            let text = report.map(|report| if json { report.to_json() } else { Ok(report.to_table()) });
            text.transpose()?.unwrap_or_default()
        }
        cli::Parsed::Topo(args) => {
            let report = topo::run(&args)?;
            if json { report.to_json()? } else { report.to_text() }
        }
        cli::Parsed::Explore(args) => {
            let report = explore::run(&args)?;
            if json { report.to_json() } else { report.to_text() }
        }
        cli::Parsed::Overlap(args) => {
            let report = overlap::run(&args)?;
            if json { report.to_json() } else { report.to_text() }
        }
        cli::Parsed::Layer(args) => {
            let report = layer::run(&args)?;
            if json { report.to_json()? } else { report.to_table() }
        }
        cli::Parsed::BenchGpu(args) => {
            let report = bench::run(&args)?;
            let text = if json { report.to_json()? } else { report.to_tables() };
            // Some figures are there and some are not: neither a success nor nothing.
            return Ok((text, u8::from(report.any_failed())));
        }
    };
    Ok((text, 0))
}

/// A closed pipe is the reader's choice, not an error (`println!` would panic).
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
}

/// The first panic, if there was one.
static DEFECT: OnceLock<String> = OnceLock::new();

/// The last resort: something panicked.
pub fn defect() -> Failure {
    let what = DEFECT.get().map_or("no message", String::as_str);
    Failure::new(
        Kind::Aborted,
        format!("a defect in tileweave, please report it: {what}"),
    )
}
