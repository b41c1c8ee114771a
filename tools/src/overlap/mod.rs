//! `tileweave overlap`: how much of the communication the fused kernels hide, per operation and shape, beside the unfused
//! path, NCCL and the route that the crate takes.
//!
//! With `--device cuda` all is measured. Else it is predicted: the same kernels run on the simulated node with the clock of
//! a described machine, and only NCCL's part is a formula (`docs/prediction.md`).

mod args;
mod cases;
mod measure;
mod nccl;
mod plot;
mod report;
mod subject;
pub mod timeline_plot;
pub mod trace;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use tileweave::timeline::Timeline;

use crate::failure::Failure;
use crate::picture::Picture;
use crate::run::output::Place;
pub use args::OverlapArgs;
use cases::{Case, Gemm};
use measure::{GemmTimes, MessageTimes};
use subject::Subject;

/// What a case took.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Times {
    Gemm(GemmTimes),
    Message(MessageTimes),
}

/// All rows.
pub struct Report {
    node: String,
    kind: &'static str,
    rows: Vec<(Case, Times)>,
    /// The first case's fused kernel, where its timeline was asked for.
    recorded: Option<(Gemm, Timeline)>,
}

pub fn run(args: &OverlapArgs) -> Result<Report, Failure> {
    let plot = Picture::asked("--plot", &args.plot)?;
    let trace = args
        .trace
        .as_deref()
        .map(|path| Place::new("--trace", path))
        .transpose()?;
    if trace.is_some() && args.trace == args.plot {
        return Err(Failure::bad_input(
            "--trace and --plot name one file: expected one for each",
        ));
    }
    args.operations()?;
    let subject = Subject::of(args)?;
    let cases = cases::cases(args, &subject)?;
    let times = sweep(&subject, &cases)?;
    let first = match cases.first() {
        // A drawing over M has one point there.
        Some(Case::Gemm(gemm)) if trace.is_some() || (plot.is_some() && cases.len() == 1) => Some(gemm.clone()),
        _ => None,
    };
    let mut report = Report {
        node: subject.name().into(),
        kind: subject.kind(),
        rows: cases.into_iter().zip(times).collect(),
        recorded: None,
    };
    if let Some(gemm) = first {
        let timeline = measure::timeline(&subject, &gemm).map_err(|error| of_case(&Case::Gemm(gemm.clone()), error))?;
        if let Some(place) = &trace {
            let mut text = Vec::new();
            trace::write_chrome(&timeline, trace::Ctas::Telling, &mut text)
                .map_err(|error| Failure::bad_value("--trace", "given", &error.to_string()))?;
            place.write(&text)?;
        }
        report.recorded = Some((gemm, timeline));
    }
    if let Some(picture) = plot {
        picture.write(&match &report.recorded {
            Some((gemm, timeline)) if report.rows.len() == 1 => {
                let title = format!(
                    "{} on {} [{}]",
                    Case::Gemm(gemm.clone()).name(),
                    report.node,
                    report.kind
                );
                timeline_plot::draw(timeline, &title).to_string()
            }
            _ => plot::svg(&report),
        })?;
    }
    Ok(report)
}

/// An error, with the case that it is of.
fn of_case(case: &Case, error: tileweave::Error) -> Failure {
    let mut failure = Failure::from(error);
    failure.message = format!("{}: {}", case.name(), failure.message);
    failure
}

fn measure(subject: &Subject, case: &Case) -> Result<Times, Failure> {
    let times = match case {
        Case::Gemm(gemm) => measure::gemm(subject, gemm).map(Times::Gemm),
        Case::Message(message) => measure::message(subject, message).map(Times::Message),
    };
    times.map_err(|error| of_case(case, error))
}

/// Every case. Simulated nodes know nothing of each other, so as many as there are cores work at a time; GPUs are measured
/// alone. The first failure, in the order of cases, is the sweep's.
fn sweep(subject: &Subject, cases: &[Case]) -> Result<Vec<Times>, Failure> {
    let bar = bar(cases.len());
    let workers = match subject {
        Subject::Cuda { .. } => 1,
        Subject::Described { .. } => std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(cases.len()),
    };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let slots: Vec<Mutex<Option<Result<Times, Failure>>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(case), Some(slot)) = (cases.get(at), slots.get(at)) else {
                return;
            };
            bar.set_message(case.name());
            let times = measure(subject, case);
            failed.fetch_or(times.is_err(), Ordering::Relaxed);
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(times);
            }
            bar.inc(1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    bar.finish_and_clear();
    let mut all = Vec::with_capacity(cases.len());
    let mut cut_short = None;
    for slot in slots {
        match slot.into_inner().ok().flatten() {
            Some(Ok(times)) => all.push(times),
            Some(Err(failure)) => return Err(failure),
            // Left over when another failed, which stands behind it.
            None => cut_short = Some(crate::defect()),
        }
    }
    cut_short.map_or(Ok(all), Err)
}

/// On standard error, if a person watches it and there is something to wait for.
fn bar(cases: usize) -> ProgressBar {
    if cases < 2 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(cases as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}, {eta} left: {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}
