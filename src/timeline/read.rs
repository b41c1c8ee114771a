//! From stamps to spans. A stamp says what its role does until the next one; between two of those may stand those of a wait's
//! words, one for each, which say when it came.

use super::{Activity, Role, Span, Track};
use crate::abi;
use crate::error::WaitKind;

/// Words of a [`TwTrack`](abi::TwTrack).
pub(super) const TRACK_WORDS: usize = 3;

/// A stamp's parts.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    kind: u32,
    peer: Option<usize>,
    tile: u32,
    ns: u64,
}

impl Stamp {
    fn of(words: &[u64]) -> Stamp {
        let peer = (words[0] >> 16) as u32 & 0xffff;
        Stamp {
            kind: (words[0] & 0xffff) as u32,
            peer: (peer != abi::TW_STAMP_ALL).then_some(peer as usize),
            tile: (words[0] >> 32) as u32,
            ns: words[1],
        }
    }

    /// `None`: nothing.
    fn activity(&self) -> Option<Activity> {
        Some(match self.kind {
            abi::TW_STAMP_MATH => Activity::Math,
            abi::TW_STAMP_PUSH => Activity::Push,
            abi::TW_STAMP_STORE => Activity::Store,
            abi::TW_STAMP_REDUCE => Activity::Reduce,
            abi::TW_STAMP_COLLECT => Activity::Collect,
            abi::TW_STAMP_TAIL => Activity::Tail,
            abi::TW_STAMP_END => Activity::End,
            kind => Activity::Wait(WaitKind::from_code(kind.checked_sub(abi::TW_STAMP_WAIT)?)?),
        })
    }
}

/// A track of `written` stamps, of which `words` has the first.
pub(super) fn track(
    (kernel, cta, role): (usize, usize, Role),
    (began, ended): (u64, u64),
    written: u64,
    words: &[u64],
) -> Track {
    let stamps: Vec<Stamp> = words.chunks_exact(2).map(Stamp::of).collect();
    let mut track = Track {
        kernel,
        cta,
        role,
        start_ns: began,
        end_ns: ended.max(began),
        spans: Vec::new(),
        dropped: written - stamps.len() as u64,
    };
    // The clock need not be monotone.
    let (mut now, mut tile) = (began, 0);
    let mut rest = &stamps[..];
    while let [first, behind @ ..] = rest {
        let came = behind
            .iter()
            .take_while(|stamp| stamp.kind == abi::TW_STAMP_CAME)
            .count();
        let (came, next) = behind.split_at(came);
        rest = next;
        now = first.ns.max(now);
        if first.tile != abi::TW_STAMP_SAME {
            tile = first.tile;
        }
        let Some(activity) = first.activity() else { continue };
        let end = match rest.first() {
            Some(next) => next.ns.max(now),
            None if track.dropped == 0 => track.end_ns.max(now),
            // Nobody knows when it ended.
            None => break,
        };
        let span = Span {
            activity,
            tile,
            peer: first.peer,
            start_ns: now,
            end_ns: end,
        };
        match activity {
            Activity::Wait(_) if !came.is_empty() => share_out(span, came, &mut track.spans),
            _ => track.spans.push(span),
        }
    }
    track.end_ns = track
        .spans
        .last()
        .map_or(track.end_ns, |last| last.end_ns.max(track.end_ns));
    track
}

/// A wait for several words: in turn, it is for the one that comes next, and to its end for the last. Words that were there at
/// once held nobody up.
fn share_out(wait: Span, came: &[Stamp], spans: &mut Vec<Span>) {
    let mut late: Vec<(u64, Option<usize>)> = came
        .iter()
        .filter(|stamp| stamp.ns > wait.start_ns)
        .map(|stamp| (stamp.ns.min(wait.end_ns), stamp.peer))
        .collect();
    late.sort();
    let mut piece = Span { peer: None, ..wait };
    for (i, (ns, peer)) in late.iter().enumerate() {
        piece.peer = *peer;
        match late.get(i + 1) {
            Some((_, next)) if next == peer => {}
            Some(_) => {
                spans.push(Span { end_ns: *ns, ..piece });
                piece.start_ns = *ns;
            }
            None => {}
        }
    }
    spans.push(piece);
}
