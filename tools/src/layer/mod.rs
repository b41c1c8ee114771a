//! `tileweave layer`: one tensor-parallel layer over several ranks, checked.
//!
//! Tensors are made or read whole, dealt to the ranks, run by the crate's layer on all of them at once, and gathered; every element of every
//! result is compared with an f64 reference, ranks that have the same elements with each other, and the bytes that
//! each rank sent with those that its layer stated.

pub mod args;
mod check;
mod kind;
mod lane;
mod mats;
mod parts;
mod planned;
mod problem;
mod report;
mod whole;

use std::collections::BTreeMap;
use std::time::Duration;

use tileweave::layer::Sends;
use tileweave::{GroupConfig, Path, Want};

use crate::cli::RouteArg;
use crate::device::{self, Machine};
use crate::failure::Failure;
use crate::run::crew::Crew;
use crate::run::execute::{describe_devices, heap_share, nccl_policy, on_every_rank, traffic_of};
use crate::run::output::{Place, write_tensors};
use crate::run::{digest, spinner};
use args::LayerArgs;
use kind::Kind;
use lane::Lane;
use planned::{Spec, Wanted};
use report::{Collectives, Report};
use whole::Whole;

/// A route that no operation of the layer would be asked for is refused here, as operations refuse theirs.
fn check_route(route: RouteArg, machine: &Machine, kind: Kind) -> Result<(), Failure> {
    match (route, machine, kind) {
        (RouteArg::Nccl, Machine::Sim, _) => Err(Failure::unavailable(
            "route nccl is not available: the simulated node has no NCCL",
        )),
        (RouteArg::Fused, _, Kind::Embedding) => Err(Failure::unavailable(
            "route fused is not available: an embedding has no GEMM to be fused with",
        )),
        _ => Ok(()),
    }
}

/// What a rank does in a pass.
type Pass = fn(&mut Lane) -> tileweave::Result<()>;

pub fn run(args: &LayerArgs) -> Result<Report, Failure> {
    let output = args.output.as_deref().map(|path| Place::new("--output", path));
    let output = output.transpose()?;
    let machine = device::choose(args.common.device)?;
    let world = args.common.ranks.unwrap_or_else(|| machine.default_ranks());
    let progress = spinner();
    progress.set_message("making the operands");
    let problem = problem::problem(args, world)?;
    check_route(args.route, &machine, problem.kind)?;
    let wanted = Wanted {
        sequence_parallel: args.sequence_parallel,
        route: match args.route {
            RouteArg::Auto => Want::Auto,
            RouteArg::Fused => Want::Exactly(Path::Fused),
            RouteArg::Unfused => Want::Exactly(Path::Unfused),
            RouteArg::Nccl => Want::Exactly(Path::Nccl),
        },
    };
    let spec = Spec::new(&problem, wanted);
    spec.check(world)?;
    progress.set_message(format!(
        "running {} on {world} ranks ({})",
        problem.kind.name(),
        machine.word()
    ));

    let node = machine.node_of(world, args.common.schedule_seed)?;
    // In two exchanges whatever their size, all-reduces send what the textbook says.
    let config = GroupConfig::default()
        .nccl(nccl_policy(&machine, args.route))
        .deadline(Duration::from_millis(args.deadline_ms))
        .one_shot_bytes(0)
        .sized_for(&spec.operations(world), world)?;
    let heap_bytes = config.heap_bytes.min(heap_share(&machine, &node, world, Crew::Threads));
    let ranks = node.group(world, &config.heap_bytes(heap_bytes))?;
    let mut lanes = Vec::with_capacity(world);
    for rank in &ranks {
        lanes.push(Lane::new(rank, &problem, spec.plan(rank)?, args.sequence_parallel)?);
    }
    let passes: [(&str, Pass); 3] = [
        ("the forward pass", Lane::forward),
        ("the backward pass", Lane::backward),
        ("the sums of gradients", Lane::finish),
    ];
    let mut sent = vec![[0; 3]; world];
    let count = if args.backward { passes.len() } else { 1 };
    for (i, (name, pass)) in passes.into_iter().take(count).enumerate() {
        let before: Vec<u64> = ranks.iter().map(|rank| traffic_of(&node, rank).0).collect();
        on_every_rank(&node, &mut lanes, |lane| {
            pass(lane)?;
            lane.rank.synchronize()
        })?;
        for (index, (lane, before)) in lanes.iter().zip(before).enumerate() {
            sent[index][i] = traffic_of(&node, &lane.rank).0 - before;
            check::as_stated(index, name, sent[index][i], &lane.sends()[i])?;
        }
    }
    progress.set_message("comparing with the reference");
    let size = problem.dtype.size();
    let (mut values, mut gradients) = (Whole::new(size), Whole::new(size));
    for lane in &lanes {
        lane.collect(&mut values, &mut gradients)?;
    }
    let verdict = check::judge(&problem, (world, args.sequence_parallel), &values, &gradients)?;
    if let Some(place) = &output {
        let tensors = verdict.results.iter();
        let tensors = tensors.map(|(name, (shape, bytes))| (name.clone(), shape.clone(), bytes.as_slice()));
        write_tensors(place, problem.dtype, tensors)?;
    }
    progress.finish_and_clear();

    let stated: Vec<[Vec<Sends>; 3]> = lanes.iter().map(Lane::sends).collect();
    // Every rank runs the same.
    let counted = |pass: usize| {
        let mut counts = BTreeMap::new();
        for sends in stated[0][pass].iter().filter(|_| pass < count) {
            *counts.entry(sends.op.name().to_string()).or_insert(0) += 1;
        }
        counts
    };
    let both = |of: &[Vec<Sends>; 3]| of[..count.min(2)].iter().map(|sends| Sends::total(sends)).sum();
    let largest = |of: fn(&report::Judged) -> f64| verdict.judged.values().map(of).fold(0.0, f64::max);
    let info = node.driver().place_info(ranks[0].place())?;
    Ok(Report {
        kind: problem.kind.name(),
        ranks: world,
        m: problem.size('S'),
        dtype: problem.dtype.to_string(),
        device: machine.word(),
        device_name: describe_devices(&node, &info.name, world),
        sequence_parallel: args.sequence_parallel,
        backward: args.backward,
        max_rel_err: largest(|judged| judged.max_rel_err),
        bound: largest(|judged| judged.bound),
        bitwise_equal_across_ranks: true,
        bytes_sent: sent.iter().map(|sent| sent[0] + sent[1]).collect(),
        bytes_stated: stated.iter().map(both).collect(),
        collectives: Collectives {
            forward: counted(0),
            backward: counted(1),
            finish: counted(2),
        },
        finish_bytes_sent: sent.iter().map(|sent| sent[2]).collect(),
        result_digest: digest(verdict.results.values().map(|(_, bytes)| bytes)),
        tensors: verdict.judged,
    })
}
