//! Another library's collective on the clock (`docs/clock.md`, "Streams"): a command of one stream of each rank, which all of them
//! come to before it begins.

use super::clock::join;
use super::handle::SimNode;
use super::machine::Machine;
use super::shared::bad_stream;
use super::stream::{Command, StreamKey, StreamState};
use crate::driver::Stream;
use crate::error::{Error, Result};

/// A stream's part in a collective of `members` streams, told apart from others by its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Together {
    pub number: u64,
    pub members: usize,
    /// Picoseconds, from the last stream's arrival on.
    pub takes: u64,
    /// What every rank sends, and gets.
    pub bytes: u64,
}

impl SimNode {
    /// `Driver::model_collective`. Nothing is enqueued where any stream cannot take its part.
    pub(super) fn collective(&self, streams: &[Stream], us: f64, bytes: u64) -> Result<()> {
        if self.config.clock.is_none() {
            return Err(Error::Unavailable {
                what: "a model of a collective".into(),
                reason: "this simulated node has no clock: SimConfig::clocked".into(),
            });
        }
        if !(0.0..=1e9).contains(&us) {
            return Err(Error::bad_argument("us", us, "0 to 10^9 microseconds"));
        }
        if streams.is_empty() {
            return Err(Error::bad_argument("streams", "none", "one of each rank"));
        }
        let mut s = self.node.shared.lock();
        for (i, stream) in streams.iter().enumerate() {
            if streams[..i].contains(stream) {
                return Err(Error::bad_argument("streams", stream.0, "each stream once"));
            }
            let head = s.streams.get_mut(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
            if let Some(capture) = &mut head.capture {
                return Err(capture.refuse("model_collective"));
            }
        }
        s.next_record += 1;
        let what = Together {
            number: s.next_record,
            members: streams.len(),
            takes: (us * 1e6) as u64,
            bytes,
        };
        for stream in streams {
            s.enqueue(stream.0, Command::Together(what))?;
        }
        Ok(())
    }
}

impl Machine {
    /// A collective, if all its streams have come to it.
    pub fn step_together(&mut self, what: Together) -> bool {
        let here = |stream: &StreamState| {
            let first = stream.queue.front();
            matches!(first, Some((Command::Together(other), ..)) if other.number == what.number)
                && stream.running.is_none()
        };
        let keys: Vec<StreamKey> = self
            .streams
            .iter()
            .filter(|(_, s)| here(s))
            .map(|(key, _)| *key)
            .collect();
        let Some(timed) = self.timed.as_mut().filter(|_| keys.len() == what.members) else {
            return false;
        };
        let mut asked = 0;
        for key in &keys {
            if let Some((_, host, then)) = self.streams.get_mut(key).and_then(|stream| stream.queue.pop_front()) {
                asked = then.max(asked);
                if let Some(stream) = self.streams.get_mut(key) {
                    join(&mut stream.rows, &host, &mut Vec::new());
                }
            }
        }
        timed.together(&keys, asked, what);
        keys.into_iter().for_each(|key| self.finished(key));
        true
    }
}
