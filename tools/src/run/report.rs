//! What a run prints.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The JSON object, field for field.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub op: String,
    pub ranks: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub dtype: String,
    /// `sim` or `cuda`.
    pub device: String,
    pub device_name: String,
    pub route: String,
    pub route_reason: String,
    pub kernel: String,
    pub wire: String,
    /// `residual-norm`, or none.
    pub tail: Option<String>,
    pub max_abs_err: f64,
    pub max_rel_err: f64,
    pub bound: f64,
    pub bitwise_equal_unfused: Option<bool>,
    pub bitwise_equal_across_ranks: Option<bool>,
    pub result_digest: String,
    pub bytes_sent: Vec<u64>,
    pub signals_sent: Vec<u64>,
    pub elapsed_ms: Option<f64>,
}

impl Report {
    pub fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::bad_input(format!("the report is not JSON: {error}")))
    }

    pub fn to_table(&self) -> String {
        let promise = |kept: Option<bool>| match kept {
            Some(true) => "equal bit for bit",
            Some(false) => "DIFFERENT",
            None => "not promised",
        };
        let per_rank = |counts: &[u64]| counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let sizes = if self.k > 0 {
            format!("M {}  N {}  K {}", self.m, self.n, self.k)
        } else {
            format!("M {}  N {}", self.m, self.n)
        };
        let time = self
            .elapsed_ms
            .map_or("not measured: the simulated node has no GPU's clock".into(), |ms| {
                format!("{ms:.4} ms (median)")
            });
        let lines = [
            (
                "operation",
                format!("{}  {sizes}  {}  on {} ranks", self.op, self.dtype, self.ranks),
            ),
            ("device", format!("{} ({})", self.device, self.device_name)),
            ("route", format!("{}: {}", self.route, self.route_reason)),
            ("kernel", self.kernel.clone()),
            ("wire", self.wire.clone()),
            ("tail", self.tail.as_deref().unwrap_or("none").into()),
            (
                "largest error",
                format!(
                    "{:.3e} of the largest result (bound {:.3e})",
                    self.max_rel_err, self.bound
                ),
            ),
            ("other route", promise(self.bitwise_equal_unfused).into()),
            ("across ranks", promise(self.bitwise_equal_across_ranks).into()),
            ("digest", self.result_digest.clone()),
            ("bytes sent", per_rank(&self.bytes_sent)),
            ("signals sent", per_rank(&self.signals_sent)),
            ("time", time),
        ];
        let mut text = String::new();
        for (name, value) in lines {
            text += &format!("{name:<15}{value}\n");
        }
        text + "The result is right on every rank."
    }
}
