//! Time on a GPU, by events in every rank's stream. The simulated node has no GPU's clock.

use tileweave::Node;
use tileweave::driver::Kind;

use super::execute::{Lane, on_every_rank};
use crate::failure::Failure;

/// The median over `iters` launches of the slowest rank's time, in milliseconds, after `warmup` launches.
pub fn measure(node: &Node, lanes: &mut [Lane], warmup: u32, iters: u32) -> Result<Option<f64>, Failure> {
    if node.driver().kind() != Kind::Cuda {
        return Ok(None);
    }
    let times = on_every_rank(node, lanes, |lane| time_rank(node, lane, warmup, iters))?;
    let slowest = |iteration: usize| times.iter().map(|rank| rank[iteration]).fold(0.0, f64::max);
    Ok(Some(median((0..iters as usize).map(slowest).collect())))
}

fn time_rank(node: &Node, lane: &mut Lane, warmup: u32, iters: u32) -> tileweave::Result<Vec<f64>> {
    let driver = node.driver();
    let (stream, place) = (lane.rank.stream(), lane.rank.place());
    // Events are made before anything is launched: while kernels wait for each other, nothing may need the device idle.
    let events = (0..=iters)
        .map(|_| driver.event_create(place))
        .collect::<tileweave::Result<Vec<_>>>()?;
    let launched = (|| {
        for _ in 0..warmup {
            lane.enqueue()?;
        }
        driver.event_record(events[0], stream)?;
        for event in &events[1..] {
            lane.enqueue()?;
            driver.event_record(*event, stream)?;
        }
        Ok(())
    })();
    let times = launched.and_then(|()| lane.rank.synchronize()).and_then(|()| {
        let between = |pair: &[_]| Ok(driver.event_elapsed_ms(pair[0], pair[1])?.unwrap_or(f64::NAN));
        events.windows(2).map(between).collect()
    });
    for event in events {
        driver.event_destroy(event)?;
    }
    times
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    match times.len() % 2 {
        0 => (times[middle - 1] + times[middle]) / 2.0,
        _ => times[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
