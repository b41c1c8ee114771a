//! `--trace` and `--plot`: the operation once more, with a recorder on every rank; what it shows is written to files.

use tileweave::Node;
use tileweave::timeline::{Recorder, Timeline};

use super::crew::Crew;
use super::execute::{Lane, on_every_rank};
use super::output::Place;
use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::overlap::timeline_plot::draw;
use crate::overlap::trace::{Ctas, write_chrome};

/// Stamps of a role: enough for a thousand blocks.
const STAMPS: usize = 4096;

/// Where things go.
pub struct Files {
    trace: Option<Place>,
    plot: Option<Place>,
    ctas: Ctas,
}

impl Files {
    /// Fails early where a file could not be written, or has the wrong name.
    pub fn new(args: &RunArgs, crew: Crew) -> Result<Files, Failure> {
        if let Some(plot) = args
            .plot
            .as_ref()
            .filter(|plot| plot.extension().is_none_or(|ending| ending != "svg"))
        {
            return Err(Failure::bad_value("--plot", plot.display(), "a file that ends in .svg"));
        }
        let processes = args.processes || matches!(crew, Crew::Process(_));
        if processes && (args.trace.is_some() || args.plot.is_some()) {
            let expected = "ranks that are threads of one process, which sees all of them";
            return Err(Failure::bad_value("--trace or --plot", "given", expected));
        }
        if args.all_ctas && args.trace.is_none() {
            return Err(Failure::bad_value("--all-ctas", "given", "--trace with it"));
        }
        let named = [
            ("--output", &args.output),
            ("--trace", &args.trace),
            ("--plot", &args.plot),
        ];
        for (i, (one, first)) in named.iter().enumerate() {
            for (other, second) in &named[i + 1..] {
                if first.is_some() && first == second {
                    return Err(Failure::bad_input(format!(
                        "{one} and {other} name one file: expected one for each"
                    )));
                }
            }
        }
        let place = |option, path: &Option<std::path::PathBuf>| {
            let place = path.as_deref().map(|path| Place::new(option, path));
            place.transpose()
        };
        Ok(Files {
            trace: place("--trace", &args.trace)?,
            plot: place("--plot", &args.plot)?,
            ctas: if args.all_ctas { Ctas::All } else { Ctas::Telling },
        })
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.trace.is_some() || self.plot.is_some()
    }

    pub fn write(&self, timeline: &Timeline, title: &str) -> Result<(), Failure> {
        if let Some(trace) = &self.trace {
            let mut text = Vec::new();
            write_chrome(timeline, self.ctas, &mut text)
                .map_err(|error| Failure::bad_value("--trace", "given", &error.to_string()))?;
            trace.write(&text)?;
        }
        match &self.plot {
            Some(plot) => plot.write(draw(timeline, title).to_string().as_bytes()),
            None => Ok(()),
        }
    }
}

/// One more operation on every rank, whose result nobody looks at.
pub fn record(node: &Node, lanes: &mut [Lane]) -> Result<Timeline, Failure> {
    for lane in lanes.iter_mut() {
        lane.graph = None;
        lane.recorder = Some(Recorder::new(&lane.rank, STAMPS)?);
    }
    on_every_rank(node, lanes, |lane| {
        lane.enqueue()?;
        lane.rank.synchronize()
    })?;
    let recorders: Vec<Recorder> = lanes.iter_mut().filter_map(|lane| lane.recorder.take()).collect();
    Ok(Timeline::read(&recorders)?)
}
