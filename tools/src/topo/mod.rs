//! `tileweave topo`: what the machine is, what the probe found, and which route typical shapes get on it.
//!
//! A machine comes from NVML and the driver, from the simulated node, or from a snapshot file; what follows treats all alike. Times are
//! the model's (`docs/routes.md`), never measured here.

mod matrix;
mod plot;
mod report;
mod shapes;

use std::path::PathBuf;

use clap::Args;
use tileweave::probe::Probe;
use tileweave::route::{Allowed, Alternative, Decision, Machine, decide};
use tileweave::topology::{Source, Topology, VERSION};
use tileweave::{EXCHANGES, GroupConfig, Numerics};

use crate::cli::CommonArgs;
use crate::device;
use crate::failure::Failure;
use crate::run::output::Place;
use shapes::Shape;

#[derive(Args, Debug, Clone)]
pub struct TopoArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// A recorded machine instead of this one
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Records the machine
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Draws GPUs, switches and links
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// Everything there is to tell.
pub struct Report {
    topology: Topology,
    probe: Option<Probe>,
    machine: Machine,
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

/// The machine asked for.
fn machine(args: &TopoArgs) -> Result<(Topology, Option<Probe>), Failure> {
    if let Some(path) = &args.snapshot {
        return Ok((Topology::load(path)?, None));
    }
    let found = device::this_machine(args.common.device)?;
    let node = match &found {
        Ok(machine) => machine.plain_node(args.common.ranks.unwrap_or_else(|| machine.default_ranks()))?,
        Err(reason) => return Ok((nothing(reason), None)),
    };
    Ok((node.topology()?, None))
}

/// A machine without a GPU that could be used.
fn nothing(reason: &str) -> Topology {
    Topology {
        version: VERSION,
        source: Source::Driver,
        driver: String::new(),
        cuda: None,
        gpus: Vec::new(),
        links: Vec::new(),
        notes: vec![reason.to_string()],
    }
}

impl Report {
    fn of(topology: Topology, probe: Option<Probe>, ranks: Option<usize>) -> Report {
        let gpus = topology.gpus.len();
        let world = ranks.unwrap_or(gpus.min(16));
        // As the library places ranks: one a GPU, or evenly.
        let places: Vec<usize> = (0..world)
            .map(|rank| if gpus > 0 { rank % gpus } else { rank })
            .collect();
        let machine = Machine::of(&topology, probe.as_ref(), &places);
        let allowed = Allowed {
            one_shot_bytes: GroupConfig::default().one_shot_bytes as u64,
            numerics: Numerics::Exact,
            alternative: Alternative::Nccl,
            exchanges: EXCHANGES,
        };
        let shapes = if world > 0 { shapes::all(world) } else { Vec::new() };
        let routes = shapes
            .into_iter()
            .map(|shape| {
                let decision = decide(&machine, &shape.work, &allowed);
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
