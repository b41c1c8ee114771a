//! `tileweave topo`: what the machine is, what the probe found, and which route typical shapes get on it.
//!
//! A machine comes from NVML and the driver, from the simulated node, or from a snapshot file; what follows treats all
//! alike. Times are the model's (`docs/routes.md`), never measured here.

mod matrix;
mod plot;
mod report;
mod shapes;

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use tileweave::probe::{Cached, Probe, Progress, cache_folder};
use tileweave::route::{self, Allowed, Decision, decide};
use tileweave::topology::{Source, Topology, VERSION};
use tileweave::{GroupConfig, NcclPolicy, Numerics, Op};

use crate::cli::CommonArgs;
use crate::device::{self, Machine};
use crate::failure::Failure;
use crate::run::output::Place;
use shapes::Shape;

#[derive(Args, Debug, Clone)]
pub struct TopoArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// A recorded machine instead of this one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "schedule_seed"])]
    pub snapshot: Option<PathBuf>,
    /// Records the machine
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Tries every link anew, and keeps what is found
    #[arg(long, conflicts_with = "snapshot")]
    pub probe: bool,
    /// Draws GPUs, switches and links
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// Everything there is to tell.
pub struct Report {
    topology: Topology,
    probe: Option<Probe>,
    machine: route::Machine,
    routes: Vec<(Shape, Decision)>,
}

pub fn run(args: &TopoArgs) -> Result<Report, Failure> {
    if let Some(path) = args
        .plot
        .as_ref()
        .filter(|path| path.extension().is_none_or(|kind| kind != "svg"))
    {
        return Err(Failure::bad_value("--plot", path.display(), "a file that ends in .svg"));
    }
    // What cannot be written is told before anything is asked of the machine.
    let place = |name, path: &Option<PathBuf>| path.as_deref().map(|path| Place::new(name, path)).transpose();
    let (save, plot) = (place("--save", &args.save)?, place("--plot", &args.plot)?);
    if save.is_some() && args.save == args.plot {
        return Err(Failure::bad_input(
            "--save and --plot name one file: expected one for each",
        ));
    }
    let (topology, probe) = machine(args)?;
    let report = Report::of(topology, probe, args.common.ranks);
    if let Some(place) = save {
        place.write(report.topology.to_json().as_bytes())?;
    }
    if let Some(place) = plot {
        place.write(plot::svg(&report.topology, report.probe.as_ref()).as_bytes())?;
    }
    Ok(report)
}

/// The machine asked for, and what is known of its links.
fn machine(args: &TopoArgs) -> Result<(Topology, Option<Probe>), Failure> {
    if let Some(path) = &args.snapshot {
        return Ok((Topology::load(path)?, None));
    }
    let found = match device::this_machine(args.common.device)? {
        Ok(found) => found,
        Err(reason) if args.probe => {
            return Err(Failure::unavailable(format!(
                "--probe needs GPUs, or --device sim: {reason}"
            )));
        }
        Err(reason) => return Ok((without_cuda(&reason), None)),
    };
    let ranks = args.common.ranks.unwrap_or_else(|| found.default_ranks());
    let node = found.plain_node(ranks)?;
    let mut topology = node.topology()?;
    let all: Vec<usize> = (0..node.device_count()).collect();
    let progress = bar();
    let mut tell = |at: Progress| {
        if let Some((from, to)) = at.next {
            progress.set_message(format!("trying {} of {}: device {from} to {to}", at.done + 1, at.pairs));
        }
    };
    // A simulated node's word is taken, as groups take it.
    let found = match (&found, args.probe) {
        _ if all.len() < 2 => None,
        (_, true) => Some(node.probe_devices(&all, &mut tell)?),
        (Machine::Sim, false) => None,
        (Machine::Cuda(driver), false) => Some(Probe::cached(
            cache_folder().as_deref(),
            driver,
            &topology,
            &all,
            &mut tell,
        )?),
    };
    progress.finish_and_clear();
    let Some(Cached { probe, note, .. }) = found else {
        return Ok((topology, None));
    };
    topology.notes.extend(note);
    Ok((topology, Some(probe)))
}

/// On standard error, if a person watches it.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

/// A machine on which CUDA does not start: NVML may know its GPUs all the same.
fn without_cuda(reason: &str) -> Topology {
    let mut topology = tileweave::topology::read_nvml().unwrap_or_else(|error| Topology {
        version: VERSION,
        source: Source::Driver,
        driver: String::new(),
        cuda: None,
        gpus: Vec::new(),
        links: Vec::new(),
        notes: vec![error.to_string()],
    });
    topology.notes.insert(0, format!("no GPU can be used: {reason}"));
    topology
}

impl Report {
    fn of(topology: Topology, probe: Option<Probe>, ranks: Option<usize>) -> Report {
        let gpus = topology.gpus.len();
        let world = ranks.unwrap_or(gpus.min(16));
        // As the library places ranks: one a GPU, or evenly.
        let places: Vec<usize> = (0..world)
            .map(|rank| if gpus > 0 { rank % gpus } else { rank })
            .collect();
        let machine = route::Machine::of(&topology, probe.as_ref(), &places);
        let allowed = |op: Op| Allowed {
            one_shot_bytes: GroupConfig::default().one_shot_bytes as u64,
            numerics: Numerics::Exact,
            nccl: NcclPolicy::Own,
            exchanges: route::exchanges(op),
        };
        let shapes = if world > 0 { shapes::all(world) } else { Vec::new() };
        let routes = shapes
            .into_iter()
            .map(|shape| {
                let decision = decide(&machine, &shape.work, &allowed(shape.work.op));
                (shape, decision)
            })
            .collect();
        Report {
            topology,
            probe,
            machine,
            routes,
        }
    }
}
