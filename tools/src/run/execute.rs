//! temp
use super::input::Problem;
use crate::cli::RunArgs;
use crate::device::Machine;
use crate::failure::Failure;
use tileweave::route::Route;
pub struct Outcome {
    pub device_name: String,
    pub route: Route,
    pub results: Vec<Vec<u8>>,
    pub other: Option<Vec<Vec<u8>>>,
    pub bytes_sent: Vec<u64>,
    pub signals_sent: Vec<u64>,
    pub elapsed_ms: Option<f64>,
}
pub fn execute(_m: &Machine, _p: &Problem, _a: &RunArgs) -> Result<Outcome, Failure> {
    Err(Failure::unavailable("temp"))
}
