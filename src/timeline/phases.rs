//! Where a rank's time went, each moment of each CTA counted once.
//!
//! Roles of a CTA work at the same time. A moment in which any of them multiplies is computing: whatever else happens then is hidden.
//! Else it is moving where a role moves values; else waiting, for the peer that the first waiting role waits for. What is left
//! (launching, the operands' first bytes, CTAs without work at the end) is other. A kernel's phases are the mean over its CTAs,
//! so their sum is its time; a rank's are the sum of its kernels', and other between them.

use super::{Activity, RankTimeline, Track};

/// Parts of a time, in nanoseconds; their sum is that time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Phases {
    /// Multiplying.
    pub computing: f64,
    /// Moving values without multiplying: pushing, storing, reducing, collecting, and the tail.
    pub moving: f64,
    /// Waiting for each rank, and doing nothing else; for the own one: for roles or CTAs of its own.
    pub waiting: Vec<f64>,
    /// The rest.
    pub other: f64,
}

impl Phases {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.computing + self.moving + self.waiting.iter().sum::<f64>() + self.other
    }
}

/// Where a rank's time went, in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// From the begin of its first role to the end of its last.
    pub time: f64,
    /// That time by what its CTAs did.
    pub phases: Phases,
    /// From the end of its last product to its end: what no product can hide. All of the time where nothing was computed.
    pub tail: f64,
    /// Moving while the same CTA multiplied.
    pub hidden: f64,
}

#[derive(Clone, Copy)]
enum Class {
    Computing,
    Moving,
    Waiting(usize),
}

fn class(activity: Activity, peer: Option<usize>, world: usize) -> Option<Class> {
    match activity {
        Activity::Math => Some(Class::Computing),
        Activity::Wait(_) => peer.filter(|peer| *peer < world).map(Class::Waiting),
        _ => Some(Class::Moving),
    }
}

impl RankTimeline {
    /// Where its time went.
    pub fn summary(&self) -> Summary {
        let time = (self.end_ns() - self.start_ns()) as f64;
        let mut phases = Phases {
            waiting: vec![0.0; self.world],
            ..Phases::default()
        };
        let mut hidden = 0.0;
        for kernel in 0..self.kernels.len() {
            let first = self.tracks.partition_point(|track| track.kernel < kernel);
            let last = self.tracks.partition_point(|track| track.kernel <= kernel);
            let ctas = || self.tracks[first..last].chunk_by(|a, b| a.cta == b.cta);
            let share = 1.0 / ctas().count().max(1) as f64;
            ctas().for_each(|roles| hidden += share * self.count(roles, share, &mut phases));
        }
        phases.other = (time - phases.total()).max(0.0);
        let products = self.spans().filter(|span| span.activity == Activity::Math);
        let computed = products.map(|span| span.end_ns).max().unwrap_or(self.start_ns());
        Summary {
            time,
            phases,
            tail: (self.end_ns() - computed) as f64,
            hidden,
        }
    }

    /// Adds `share` of the phases of one CTA, but for other; the time that it moved while it computed.
    fn count(&self, roles: &[Track], share: f64, phases: &mut Phases) -> f64 {
        // What changes when: a role's span begins or ends.
        let mut changes: Vec<(u64, usize, Option<Class>)> = Vec::new();
        for (role, track) in roles.iter().enumerate() {
            for span in &track.spans {
                changes.push((span.start_ns, role, class(span.activity, span.peer, self.world)));
                changes.push((span.end_ns, role, None));
            }
        }
        // Stable: of one role at one time, the end of a span stays before the begin of the next.
        changes.sort_by_key(|change| change.0);
        let (mut doing, mut since, mut hidden) = (vec![None; roles.len()], 0, 0.0);
        for (at, role, now) in changes {
            let lasted = (at - since) as f64;
            let any = |of: fn(&Class) -> bool| doing.iter().flatten().any(of);
            let (computes, moves) = (
                any(|c| matches!(c, Class::Computing)),
                any(|c| matches!(c, Class::Moving)),
            );
            let waits = doing.iter().flatten().find_map(|class| match class {
                Class::Waiting(peer) => Some(*peer),
                _ => None,
            });
            match (computes, moves, waits) {
                (true, ..) => phases.computing += share * lasted,
                (_, true, _) => phases.moving += share * lasted,
                (.., Some(peer)) => phases.waiting[peer] += share * lasted,
                _ => {}
            }
            if computes && moves {
                hidden += lasted;
            }
            (doing[role], since) = (now, at);
        }
        hidden
    }
}
