//! `tileweave run`: one operation over several ranks, checked.
//!
//! The operands are made or read whole, split as `torch.chunk` splits, run by the crate on every rank at once, and every
//! element of every rank's result is compared with an f64 reference. Where the numerics contract promises equal bits, the
//! same operands also run on the other route, and the bits are compared.

mod check;
pub mod crew;
mod exact;
pub mod execute;
pub mod fault;
mod graph;
pub mod input;
pub mod output;
mod processes;
pub mod random;
mod record;
mod report;
mod shape;
pub mod tensors;
mod timing;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use tileweave::Op;

use crate::cli::{Device, RunArgs};
use crate::device;
use crate::failure::Failure;
pub use check::digest;
use crew::Crew;
use fault::Fault;
use output::Place;
use report::Report;

/// Runs it; `None` in a process whose rank does not speak for all.
pub fn run(args: &RunArgs) -> Result<Option<Report>, Failure> {
    let crew = Crew::find(args)?;
    check_options(args, crew)?;
    let output = args
        .output
        .as_deref()
        .map(|path| Place::new("--output", path))
        .transpose()?;
    let files = record::Files::new(args, crew)?;
    let machine = device::choose(if args.fault.is_some() {
        Device::Sim
    } else {
        args.common.device
    })?;
    crew.check(&machine, args)?;
    let ranks = match crew {
        Crew::Process(told) => told.world,
        Crew::Threads => args.common.ranks.unwrap_or_else(|| machine.default_ranks()),
    };
    let progress = spinner();
    progress.set_message("making the operands");
    let problem = input::problem(args, ranks, matches!(machine, device::Machine::Sim))?;
    if let Some(fault) = args.fault {
        fault.check(problem.shape.ranks)?;
    }
    if let (Crew::Threads, true) = (crew, args.processes) {
        let ranks = problem.shape.ranks;
        // Every process makes its own.
        drop(problem);
        progress.set_message(format!(
            "running {} in {ranks} processes ({})",
            args.op.name(),
            machine.word()
        ));
        return processes::launch(args, machine.word(), ranks).map(Some);
    }
    progress.set_message(format!(
        "running {} on {} ranks ({})",
        args.op.name(),
        problem.shape.ranks,
        machine.word()
    ));
    let outcome = execute::execute(&machine, &problem, args, crew, &files)
        .map_err(|failure| crew.name(failure, problem.shape.op))?;
    if !crew.reports() {
        return Ok(None);
    }
    progress.set_message("comparing with the reference");
    let verdict = check::judge(
        &problem,
        (args.wire.into(), outcome.adder),
        &outcome.results,
        outcome.other.as_ref(),
    )?;
    if let Some(place) = &output {
        output::write(place, &problem.shape, problem.dtype, &outcome.results)?;
    }
    progress.finish_and_clear();
    let shape = problem.shape;
    Ok(Some(Report {
        op: shape.op.name().into(),
        ranks: shape.ranks,
        m: shape.m,
        n: shape.n,
        k: shape.k,
        dtype: problem.dtype.to_string(),
        device: machine.word().into(),
        device_name: outcome.device_name,
        route: outcome.route.path.to_string(),
        route_reason: outcome.route.reason,
        kernel: outcome.route.kernel,
        wire: shape.wire(args.wire.into()).to_string(),
        max_abs_err: verdict.max_abs_err,
        max_rel_err: verdict.max_rel_err,
        bound: verdict.bound,
        bitwise_equal_unfused: verdict.bitwise_equal_unfused,
        bitwise_equal_across_ranks: verdict.bitwise_equal_across_ranks,
        tail: problem.tail.map(|_| "residual-norm".into()),
        result_digest: digest(outcome.results.all()),
        bytes_sent: outcome.bytes_sent,
        signals_sent: outcome.signals_sent,
        elapsed_ms: outcome.elapsed_ms,
    }))
}

fn check_options(args: &RunArgs, crew: Crew) -> Result<(), Failure> {
    if let (Some(fault @ Fault::Kill { .. }), Crew::Threads, false) = (args.fault, crew, args.processes) {
        let expected = "--processes with it: a rank that is a thread cannot be killed";
        return Err(Failure::bad_value("--fault", fault, expected));
    }
    if args.in_place && args.op != Op::AllReduce {
        let expected = format!("--op all-reduce, not {}", args.op.name());
        return Err(Failure::bad_value("--in-place", "given", &expected));
    }
    if args.residual_norm.is_some() && !matches!(args.op, Op::GemmAllReduce | Op::AllReduce) {
        let expected = format!("--op gemm-all-reduce or all-reduce, not {}", args.op.name());
        return Err(Failure::bad_value("--residual-norm", "given", &expected));
    }
    if args.fault.is_some() && args.common.device == Device::Cuda {
        return Err(Failure::bad_value(
            "--fault",
            "given",
            "--device sim: faults are the simulated node's",
        ));
    }
    if let (Some(fault), Some(ranks)) = (args.fault, args.common.ranks) {
        fault.check(ranks)?;
    }
    Ok(())
}

/// Turns on standard error, if a person watches it.
pub fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner(); // draws nothing where standard error is no terminal
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
