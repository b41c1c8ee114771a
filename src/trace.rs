//! What a runtime's log gets to read, with the feature `tracing` (`docs/observability.md`): once for a group, once for each
//! route of a plan, once for a failure. Nothing is said of a launch: replayed graphs make none, and a hot path that logs is
//! none. Without the feature, or a subscriber, it is nothing.

#[cfg(feature = "tracing")]
pub(crate) use events::{group_failed, group_made, plan_made};
#[cfg(not(feature = "tracing"))]
pub(crate) use silence::{group_failed, group_made, plan_made};

#[cfg(feature = "tracing")]
mod events {
    use tracing::{error, info, warn};

    use crate::error::Error;
    use crate::group::Rank;
    use crate::op::Plan;
    use crate::route::Obstacle;

    /// A group was made: the machine as its routes see it, and what of it is not used. `rank`: any that this process
    /// drives; `devices`: of all of them, in their order.
    pub(crate) fn group_made(rank: &Rank, devices: impl Iterator<Item = String>) {
        let (group, facts) = (rank.identity().0, rank.facts());
        let devices: Vec<String> = devices.collect();
        info!(
            target: "tileweave",
            group,
            world = facts.world,
            devices = devices.join(", "),
            machine = %facts.machine,
            multicast = facts.multicast.is_ok(),
            notes = rank.notes().join("; "),
            "group made"
        );
        // Two ways from one GPU to another are one link: what the probe excludes may be an obstacle besides.
        let mut told = Vec::new();
        if let Some(probe) = rank.probe() {
            for excluded in probe.excluded() {
                let (from, to) = (&probe.gpus[excluded.from], &probe.gpus[excluded.to]);
                warn!(target: "tileweave", group, from, to, reason = excluded.reason, "link excluded");
                told.push((from, to));
            }
        }
        for obstacle in &facts.machine.obstacles {
            match obstacle {
                Obstacle::Pair { uuids: (from, to), .. } if told.contains(&(from, to)) => {}
                Obstacle::Pair {
                    uuids: (from, to),
                    reason,
                    ..
                } => warn!(target: "tileweave", group, from, to, reason, "link excluded"),
                other => warn!(target: "tileweave", group, reason = %other, "GPU excluded"),
            }
        }
    }

    /// A plan was made: one event for each range of M that has a route of its own.
    pub(crate) fn plan_made(plan: &Plan) {
        let ((group, rank), spec) = (plan.rank().identity(), plan.spec());
        if !tracing::enabled!(target: "tileweave", tracing::Level::INFO) {
            return;
        }
        for (m, route) in plan.routes() {
            info!(
                target: "tileweave",
                group,
                rank,
                op = %spec.op,
                n = spec.n,
                k = spec.k,
                dtype = %spec.dtype,
                m_first = m.start,
                m_last = m.end - 1,
                path = %route.path,
                kernel = route.kernel,
                reason = route.reason,
                "route"
            );
        }
    }

    /// A group has failed, for good: `error` is what every rank will be told.
    pub(crate) fn group_failed(group: u64, error: &Error) {
        error!(target: "tileweave", group, error = %error, "group failed");
    }
}

#[cfg(not(feature = "tracing"))]
mod silence {
    use crate::error::Error;
    use crate::group::Rank;
    use crate::op::Plan;

    pub(crate) fn group_made(_: &Rank, _: impl Iterator<Item = String>) {}
    pub(crate) fn plan_made(_: &Plan) {}
    pub(crate) fn group_failed(_: u64, _: &Error) {}
}
