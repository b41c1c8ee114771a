//! A step on its way to the device: its tensor maps, encoded, and its launch.

use std::sync::{Mutex, PoisonError};

use super::launch::Step;
use crate::abi::{TwParams, TwTensorMap};
use crate::driver::TensorMap;
use crate::error::Result;
use crate::group::Rank;
use crate::timeline::Recorder;

/// Starts steps of a rank, and remembers the map of the weight, which seldom changes.
#[derive(Debug, Default)]
pub(super) struct Starter {
    /// The weight of the last launch that had one for TMA.
    weight_map: Mutex<Option<(TensorMap, TwTensorMap)>>,
}

impl Starter {
    /// Enqueues a step on the rank's stream.
    pub fn start(&self, rank: &Rank, step: &Step, recorder: Option<&Recorder>) -> Result<()> {
        let mut params = self.mapped(rank, step)?;
        recorder.map_or(Ok(()), |recorder| recorder.kernel(step, &mut params))?;
        rank.driver()
            .launch(step.kernel.name(), step.launch, &params, rank.stream())
    }

    /// A step's parameters with its tensor maps.
    fn mapped(&self, rank: &Rank, step: &Step) -> Result<TwParams> {
        let encode = |map: &TensorMap| rank.driver().encode_tensor_map(rank.place(), map);
        let mut params = step.params;
        let [x, weight, gathered, out] = &step.maps;
        let TwParams {
            map_x,
            map_gathered,
            map_out,
            ..
        } = &mut params;
        for (map, encoded) in [(x, map_x), (gathered, map_gathered), (out, map_out)] {
            if let Some(map) = map {
                *encoded = encode(map)?;
            }
        }
        if let Some(map) = weight {
            // The map is whole at every moment, whatever happened to a thread that held it.
            let mut known = self.weight_map.lock().unwrap_or_else(PoisonError::into_inner);
            params.map_weight = match &*known {
                Some((of, encoded)) if of == map => *encoded,
                _ => {
                    let encoded = encode(map)?;
                    *known = Some((*map, encoded));
                    encoded
                }
            };
        }
        Ok(params)
    }
}
