//! `tileweave explore`: what the tensor-parallel degree costs and saves, for a model on nodes of a described machine.
//!
//! Everything here is predicted. `docs/explore.md` has the formulas with their sources, and what is left out.

mod memory;
pub mod models;
mod page;
mod plot;
mod table;
#[cfg(test)]
mod tests;
mod time;

use std::path::PathBuf;

use clap::Args;
use tileweave::machines::Description;

use crate::described;
use crate::failure::Failure;
use crate::run::output::Place;
use memory::Memory;
use models::Model;
use time::Batch;

/// The highest degree that is asked about.
const MOST: usize = 32;

#[derive(Args, Debug, Clone)]
pub struct ExploreArgs {
    /// llama3-8b, qwen3-32b, llama3-70b, gpt3-175b, llama3-405b or deepseek-v3-dense
    #[arg(long, value_name = "NAME", default_value = "gpt3-175b")]
    pub model: String,
    /// A described machine: a100x8, h100x8, h200x8, h100x4, h800x8, a800x8, b200x8, b300x8, l40sx4, l20x8 or
    /// h200x1; or a file that describes one, as those of src/machines do
    #[arg(long, value_name = "NAME|FILE.json", default_value = "h100x8")]
    pub node: String,
    /// Tokens of a sequence
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 2048, value_parser = parse_seq)]
    pub seq: usize,
    /// Sequences
    #[arg(long, value_name = "B", allow_negative_numbers = true, default_value_t = 16, value_parser = parse_batch)]
    pub batch: usize,
    /// The highest degree, 1 to 32
    #[arg(long, value_name = "T", allow_negative_numbers = true, default_value_t = MOST, value_parser = parse_degree)]
    pub max_tp: usize,
    /// Draws throughput and memory over the degree
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Writes one page that computes the same with sliders, and needs nothing beside itself
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
}

fn within(text: &str, most: usize, what: &str) -> Result<usize, String> {
    let value = text.parse().ok().filter(|value| (1..=most).contains(value));
    value.ok_or_else(|| format!("expected {what} from 1 to {most}"))
}

fn parse_seq(text: &str) -> Result<usize, String> {
    within(text, 1 << 20, "a number of tokens")
}

fn parse_batch(text: &str) -> Result<usize, String> {
    within(text, 1 << 16, "a number of sequences")
}

fn parse_degree(text: &str) -> Result<usize, String> {
    within(text, MOST, "a tensor-parallel degree")
}

/// One degree. Times in microseconds.
struct Row {
    tp: usize,
    nodes: usize,
    memory: Memory,
    sent: f64,
    /// The prompt: all tokens of all sequences.
    prompt: time::Layer,
    /// A token more of each sequence.
    token: time::Layer,
}

/// All degrees, the first without tensor parallelism.
pub struct Report {
    model: Model,
    node: Description,
    seq: usize,
    batch: usize,
    rows: Vec<Row>,
}

pub fn run(args: &ExploreArgs) -> Result<Report, Failure> {
    let model = models::named(&args.model)?;
    let node = described::node(&args.node)?;
    let most = i32::MAX as usize;
    if args.seq * args.batch > most {
        let expected = format!("at most {most} tokens over all sequences");
        return Err(Failure::bad_value(
            "--seq times --batch",
            args.seq * args.batch,
            &expected,
        ));
    }
    for (option, path, ending) in [("--plot", &args.plot, "svg"), ("--html", &args.html, "html")] {
        if let Some(path) = path
            .as_ref()
            .filter(|path| path.extension().is_none_or(|is| is != ending))
        {
            let expected = format!("a file that ends in .{ending}");
            return Err(Failure::bad_value(option, path.display(), &expected));
        }
    }
    let place = |name, path: &Option<PathBuf>| path.as_deref().map(|path| Place::new(name, path)).transpose();
    let (plot, html) = (place("--plot", &args.plot)?, place("--html", &args.html)?);
    let report = Report::of(model, node, args.seq, args.batch, args.max_tp);
    if let Some(place) = plot {
        place.write(plot::svg(&report).as_bytes())?;
    }
    if let Some(place) = html {
        place.write(page::html(&report)?.as_bytes())?;
    }
    Ok(report)
}

impl Report {
    fn of(model: Model, node: Description, seq: usize, batch: usize, max_tp: usize) -> Report {
        let phase = |decode| Batch {
            sequences: batch,
            tokens: seq,
            decode,
        };
        let (prompt, token) = (phase(false), phase(true));
        let rows = model.degrees(max_tp).into_iter().map(|tp| Row {
            tp,
            nodes: tp.div_ceil(node.gpus as usize),
            memory: Memory::of(&model, tp, prompt.rows() as f64),
            sent: memory::sent(&model, tp, prompt.rows() as f64),
            prompt: prompt.layer(&model, &node, tp),
            token: token.layer(&model, &node, tp),
        });
        let rows = rows.collect();
        Report {
            model,
            node,
            seq,
            batch,
            rows,
        }
    }

    /// Throughput of a GPU against one that works alone, which the row of degree 1 stands for.
    fn efficiency(&self, row: &Row, of: impl Fn(&time::Layer) -> f64) -> f64 {
        self.alone().prompt.unfused / (row.tp as f64 * of(&row.prompt))
    }

    /// How often faster a token comes.
    fn faster(&self, row: &Row, of: impl Fn(&time::Layer) -> f64) -> f64 {
        self.alone().token.unfused / of(&row.token)
    }

    /// Every report has it: 1 divides all heads.
    fn alone(&self) -> &Row {
        &self.rows[0]
    }

    /// Whether weights and cache are within the GPU's memory.
    fn fits(&self, row: &Row) -> bool {
        row.memory.weights + row.memory.cache <= self.node.memory.hbm_gb.value * 1e9
    }
}
