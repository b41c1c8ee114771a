//! Errors, their medians by group, and what was left out.

use std::collections::BTreeMap;

/// Errors as parts of what was published, by what they are errors of.
#[derive(Default)]
pub struct Errors(BTreeMap<String, Vec<f64>>);

impl Errors {
    /// Notes an error and tells it as a cell.
    pub fn add(&mut self, group: &str, published: f64, predicted: f64) -> String {
        let error = predicted / published - 1.0;
        self.0.entry(group.into()).or_default().push(error);
        format!("{:+.0} %", 100.0 * error)
    }

    /// A line for each group, and one for all.
    pub fn print(&self, what: &str) {
        let all: Vec<f64> = self.0.values().flatten().copied().collect();
        if all.is_empty() {
            return;
        }
        println!("{what}: median error {}", summary(&all));
        for (group, errors) in &self.0 {
            println!("  {group}: {}", summary(errors));
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// The median of sizes and the median with signs, which tells a bias.
fn summary(errors: &[f64]) -> String {
    let size = median(errors.iter().map(|error| error.abs()).collect());
    let worst = errors
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap_or(0.0);
    format!(
        "{:.0} % (signed {:+.0} %, worst {:+.0} %, {} rows)",
        100.0 * size,
        100.0 * median(errors.to_vec()),
        100.0 * worst,
        errors.len()
    )
}

/// How often an answer was right, by source.
#[derive(Default)]
pub struct Score(BTreeMap<String, (usize, usize)>);

impl Score {
    pub fn add(&mut self, group: &str, right: bool) {
        let (rights, of) = self.0.entry(group.into()).or_default();
        *rights += usize::from(right);
        *of += 1;
    }

    pub fn print(&self, what: &str) {
        let (right, of) = self.0.values().fold((0, 0), |(right, of), (r, o)| (right + r, of + o));
        if of == 0 {
            return;
        }
        println!(
            "{what}: right in {right} of {of}, {:.0} %",
            100.0 * right as f64 / of as f64
        );
        for (group, (right, of)) in &self.0 {
            println!("  {right:>2} of {of:>2}  {group}");
        }
    }
}

/// Rows that are not compared, by reason.
#[derive(Default)]
pub struct LeftOut(BTreeMap<String, usize>);

impl LeftOut {
    pub fn add(&mut self, why: &str) {
        *self.0.entry(why.into()).or_default() += 1;
    }

    pub fn print(&self) {
        for (why, count) in &self.0 {
            println!("left out: {count} rows, {why}");
        }
    }
}
