//! `--processes`: this program once more for each rank, with the environment that torchrun gives its processes.
//!
//! Rank 0 reports for all where all is well; a rank that fails says so itself. Here their words are taken in, and the one that
//! tells most is passed on. Every wait of a rank is bounded, so waiting for their ends is; a rank's process ends with this one.

use std::ffi::OsString;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Map, Value};

use super::report::Report;
use crate::cli::RunArgs;
use crate::failure::{Failure, Kind};

/// Starts a process for each of `ranks` with this program's arguments, on `device`, and waits for all.
pub fn launch(args: &RunArgs, device: &str, ranks: usize) -> Result<Report, Failure> {
    let program = std::env::current_exe().map_err(|error| cannot_start(&error))?;
    let job = job();
    let mut crew = Crew(Vec::with_capacity(ranks));
    for rank in 0..ranks {
        let mut command = Command::new(&program);
        command.args(without(
            std::env::args_os().skip(1),
            &["--device", "--ranks", "--deadline-ms"],
        ));
        command.args(["--device", device, "--ranks", &ranks.to_string()]);
        command.args(["--deadline-ms", &args.deadline_ms.to_string()]);
        if !std::env::args_os().any(|word| word == "--json") {
            command.arg("--json");
        }
        for (name, value) in [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", ranks),
            ("LOCAL_WORLD_SIZE", ranks),
        ] {
            command.env(name, value.to_string());
        }
        command
            .envs([
                ("MASTER_ADDR", "localhost"),
                ("MASTER_PORT", "0"),
                ("TORCHELASTIC_RUN_ID", &job),
            ])
            .env_remove("TORCHELASTIC_RESTART_COUNT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        crew.0.push(command.spawn().map_err(|error| cannot_start(&error))?);
    }
    let outputs = crew.wait()?;
    if outputs.iter().all(|output| output.status.success()) {
        let text = outputs.first().map_or(&[][..], |first| &first.stdout[..]);
        return serde_json::from_slice(text).map_err(|error| {
            Failure::new(
                Kind::Aborted,
                format!("a defect in tileweave, please report it: rank 0 said no report: {error}"),
            )
        });
    }
    let failures = outputs
        .iter()
        .enumerate()
        .filter_map(|(rank, output)| failure_of(rank, output));
    Err(failures.min_by_key(weight).unwrap_or_else(crate::defect))
}

/// `words` without these options and their values.
fn without(words: impl Iterator<Item = OsString>, options: &[&str]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if options.contains(&&*text) {
            words.next();
        } else if !options
            .iter()
            .any(|option| text.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
        {
            kept.push(word);
        }
    }
    kept
}

/// Killed where it is not waited for.
struct Crew(Vec<Child>);

impl Crew {
    /// All at once: one that fills its pipe must not wait for another's end.
    fn wait(mut self) -> Result<Vec<Output>, Failure> {
        let threads: Vec<_> = std::mem::take(&mut self.0)
            .into_iter()
            .map(|child| std::thread::spawn(|| child.wait_with_output()))
            .collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(output) => output.map_err(|error| cannot_start(&error)),
            Err(_) => Err(crate::defect()),
        });
        ended.collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself; it is reaped in any case.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn cannot_start(error: &std::io::Error) -> Failure {
    Failure::unavailable(format!("a process for each rank cannot be had: {error}"))
}

/// A name that no other run has.
fn job() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!("{}-{}", std::process::id(), now.map_or(0, |time| time.as_nanos()))
}

/// What a process that failed has said; `None` of one that did not fail, or was killed and said nothing.
fn failure_of(rank: usize, output: &Output) -> Option<Failure> {
    if output.status.success() {
        return None;
    }
    let said: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if let Some(Value::Object(error)) = said.as_ref().and_then(|said| said.get("error")) {
        return Some(Failure::from_json(error.clone()));
    }
    let mut details = Map::new();
    details.insert("peer".into(), rank.into());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map_or(String::new(), |line| format!(": {line}"));
    Some(Failure {
        kind: Kind::PeerExited,
        message: crate::failure::one_line(&format!("rank {rank}'s process ended, {}{last}", output.status)),
        details,
    })
}

/// What tells most comes first: a rank that never began has all others miss it; a disagreement names both sides; a rank that
/// saw another one go knows more than one that waited in vain; and a process that only ended tells least.
fn weight(failure: &Failure) -> usize {
    let silent = failure.kind == Kind::PeerExited && !failure.details.contains_key("rank");
    match failure.kind {
        _ if silent => 5,
        Kind::BadInput | Kind::Unavailable => 0,
        Kind::WrongResult | Kind::Disagreement => 1,
        Kind::PeerExited => 2,
        Kind::Timeout => 3,
        Kind::Aborted => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_said_anew_are_left_out() {
        let words = "run --device auto --m 8 --ranks=3 --json --deadline-ms 5 --device-of 1"
            .split(' ')
            .map(OsString::from);
        let kept = without(words, &["--device", "--ranks", "--deadline-ms"]);
        assert_eq!(kept, ["run", "--m", "8", "--json", "--device-of", "1"]);
    }

    #[test]
    fn who_tells_most_is_heard() {
        let of = |kind| Failure::new(kind, "");
        let seen = of(Kind::PeerExited).with("rank", 1).with("peer", 0);
        let silent = of(Kind::PeerExited).with("peer", 0);
        let told = |failures: &[Failure]| {
            failures
                .iter()
                .min_by_key(|failure| weight(failure))
                .map(|failure| failure.kind)
        };
        assert_eq!(
            told(&[of(Kind::Timeout), seen.clone(), silent.clone()]),
            Some(Kind::PeerExited)
        );
        assert_eq!(told(&[seen.clone(), of(Kind::BadInput)]), Some(Kind::BadInput));
        assert_eq!(told(&[silent.clone(), of(Kind::Timeout)]), Some(Kind::Timeout));
        assert!(weight(&seen) < weight(&silent));
    }
}
