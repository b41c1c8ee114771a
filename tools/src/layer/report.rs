//! What a layer's run prints.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::failure::Failure;

/// The JSON object, field for field.
#[derive(Debug, Serialize)]
pub struct Report {
    pub kind: &'static str,
    pub ranks: usize,
    /// Rows of x.
    pub m: usize,
    pub dtype: String,
    pub device: &'static str,
    pub device_name: String,
    pub sequence_parallel: bool,
    pub backward: bool,
    /// The largest of `tensors`.
    pub max_rel_err: f64,
    pub bound: f64,
    pub bitwise_equal_across_ranks: bool,
    /// Of both passes, per rank.
    pub bytes_sent: Vec<u64>,
    /// Null where another library moves them.
    pub bytes_stated: Vec<Option<u64>>,
    pub collectives: Collectives,
    /// Of the sums of gradients that ranks have in parts, per rank.
    pub finish_bytes_sent: Vec<u64>,
    pub result_digest: String,
    pub tensors: BTreeMap<String, Judged>,
}

/// How often each operation was run, by name.
#[derive(Debug, Serialize)]
pub struct Collectives {
    pub forward: BTreeMap<String, usize>,
    pub backward: BTreeMap<String, usize>,
    /// Once a step: sums of gradients that ranks have in parts.
    pub finish: BTreeMap<String, usize>,
}

/// How far off a tensor is, relative to its largest magnitude, and how far it may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Judged {
    pub max_rel_err: f64,
    pub bound: f64,
}

impl Report {
    pub fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::bad_input(format!("the report is not JSON: {error}")))
    }

    pub fn to_table(&self) -> String {
        let per_rank = |counts: &[u64]| counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let listed = |counts: &BTreeMap<String, usize>| match counts.is_empty() {
            true => "none".to_string(),
            false => counts
                .iter()
                .map(|(name, count)| format!("{count} {name}"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let sequence = if self.sequence_parallel {
            "  sequence parallel"
        } else {
            ""
        };
        let mut lines = vec![
            (
                "layer".to_string(),
                format!(
                    "{}  {} rows  {}  on {} ranks{sequence}",
                    self.kind, self.m, self.dtype, self.ranks
                ),
            ),
            ("device".into(), format!("{} ({})", self.device, self.device_name)),
            ("forward".into(), listed(&self.collectives.forward)),
        ];
        if self.backward {
            lines.push(("backward".into(), listed(&self.collectives.backward)));
            lines.push(("once a step".into(), listed(&self.collectives.finish)));
        }
        lines.push((
            "bytes sent".into(),
            format!("{} (as stated)", per_rank(&self.bytes_sent)),
        ));
        lines.push(("digest".into(), self.result_digest.clone()));
        for (name, judged) in &self.tensors {
            let error = format!("{:.3e} of the largest (bound {:.3e})", judged.max_rel_err, judged.bound);
            lines.push((name.clone(), error));
        }
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
        let mut text = String::new();
        for (name, value) in lines {
            text += &format!("{name:<width$}{value}\n");
        }
        text + "The result is right, and equal on every rank that has it."
    }
}
