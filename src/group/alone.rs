//! Where no group spans processes: joining needs Linux.

use std::time::Duration;

use crate::driver::Driver;
use crate::error::{Error, Result};

/// There are none.
#[derive(Debug)]
pub(crate) enum Peers {}

impl Peers {
    pub fn failed(&self, _: &Error) {
        match *self {}
    }

    pub fn wake(&self) {
        match *self {}
    }

    pub fn farewell(&self, _: Option<u64>) {
        match *self {}
    }

    pub fn gone_before(&self, _: u64, _: usize) -> Option<Error> {
        match *self {}
    }

    pub fn barrier(&self, _: &dyn Driver, _: usize, _: Duration, _: impl Fn() -> Option<Error>) -> Result<()> {
        match *self {}
    }
}
