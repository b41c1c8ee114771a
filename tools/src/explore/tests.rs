use super::*;

fn report(model: &str, node: &str) -> Report {
    let model = models::named(model).expect("known");
    Report::of(model, Description::named(node).expect("known"), 2048, 16, 32)
}

/// `(degree, least, most)`.
fn between(what: &str, bands: &[(usize, f64, f64)], of: impl Fn(usize) -> f64) {
    for &(tp, least, most) in bands {
        let value = of(tp);
        assert!(
            (least..=most).contains(&value),
            "{what} at {tp}: {value}, expected {least} to {most}"
        );
    }
}

fn row(report: &Report, tp: usize) -> &Row {
    report.rows.iter().find(|row| row.tp == tp).expect("a power of two")
}

#[test]
fn unfused_efficiency_has_the_textbooks_shape() {
    let gpt = report("gpt3-175b", "h100x8");
    let bands = [
        (1, 1.0, 1.0),
        (2, 0.9, 1.0),
        (4, 0.85, 0.95),
        (8, 0.74, 0.85),
        (16, 0.4, 0.5),
        (32, 0.2, 0.3),
    ];
    between("efficiency", &bands, |tp| {
        gpt.efficiency(row(&gpt, tp), |layer| layer.unfused)
    });
}

/// What a degree takes off a token, for a model whose layer is read in a few hundred microseconds; GPT-3's weigh
/// twice as much, so that what does not shrink counts half (`docs/explore.md`).
#[test]
fn latency_falls_as_the_textbook_has_it() {
    let llama = report("llama3-70b", "h100x8");
    let bands = [(2, 1.65, 1.95), (4, 2.9, 3.5), (8, 4.7, 6.0)];
    between("a token", &bands, |tp| {
        llama.faster(row(&llama, tp), |layer| layer.unfused)
    });
    let gpt = report("gpt3-175b", "h100x8");
    let bands = [(2, 1.8, 2.0), (4, 3.2, 3.8), (8, 5.5, 6.9)];
    between("a token", &bands, |tp| gpt.faster(row(&gpt, tp), |layer| layer.unfused));
}

#[test]
fn weights_of_175b_over_eight() {
    let gpt = report("gpt3-175b", "h100x8");
    assert_eq!(row(&gpt, 8).memory.weights, 43.75e9);
}

/// Korthikanti et al. 2022, table 2, with attention computed again: s b h (10 + 24 / t), and 34 s b h / t.
#[test]
fn activations_are_the_papers() {
    let gpt = report("gpt3-175b", "h100x8");
    let all = 96.0 * 2048.0 * 16.0 * 12288.0;
    for tp in [1, 2, 4, 8, 16, 32] {
        let memory = &row(&gpt, tp).memory;
        assert_eq!(memory.activations, all * (10.0 + 24.0 / tp as f64));
        assert_eq!(memory.activations_sequence, all * 34.0 / tp as f64);
    }
}

#[test]
fn what_must_hold_on_every_node_and_model() {
    for node in Description::names() {
        for model in models::all() {
            let report = report(model.name, node);
            let name = format!("{} on {node}", model.name);
            for row in &report.rows {
                for layer in [&row.prompt, &row.token] {
                    assert!(
                        layer.compute > 0.0 && layer.compute <= layer.unfused,
                        "{name} {}",
                        row.tp
                    );
                    assert!(layer.fused.is_finite() && layer.fused > 0.0, "{name} {}", row.tp);
                    // Nothing is fused between nodes.
                    assert!(row.nodes == 1 || layer.fused == layer.unfused, "{name} {}", row.tp);
                }
                assert!(
                    report.efficiency(row, |layer| layer.unfused) <= 1.0 + 1e-12,
                    "{name} {}",
                    row.tp
                );
            }
            assert_eq!(report.alone().sent, 0.0);
            assert_eq!(report.alone().prompt.compute, report.alone().prompt.unfused);
            for pair in report.rows.windows(2) {
                assert!(pair[0].memory.weights > pair[1].memory.weights);
                assert!(pair[0].memory.activations_sequence > pair[1].memory.activations_sequence);
                assert!(pair[0].sent < pair[1].sent);
            }
        }
    }
}

/// A faster link or network makes nothing slower.
#[test]
fn faster_links_slow_nothing() {
    let of = |change: &dyn Fn(&mut Description)| {
        let mut node = Description::named("h100x8").expect("known");
        change(&mut node);
        Report::of(models::named("llama3-70b").expect("known"), node, 2048, 4, 32)
    };
    let slow = of(&|_| ());
    let link = of(&|node| {
        node.link.gb_per_s.value *= 2.0;
        node.link.achieved_gb_per_s.value *= 2.0;
    });
    let network = of(&|node| node.network.achieved_gb_per_s.value *= 2.0);
    for (at, row) in slow.rows.iter().enumerate() {
        for fast in [&link.rows[at], &network.rows[at]] {
            assert!(fast.prompt.unfused <= row.prompt.unfused && fast.prompt.fused <= row.prompt.fused);
            assert!(fast.token.unfused <= row.token.unfused && fast.token.fused <= row.token.fused);
        }
    }
    assert!(link.rows[3].prompt.unfused < slow.rows[3].prompt.unfused);
    assert!(network.rows[4].prompt.unfused < slow.rows[4].prompt.unfused);
}

#[test]
fn ranks_beyond_the_node_are_on_others() {
    let four = report("llama3-8b", "h100x4");
    let nodes: Vec<usize> = four.rows.iter().map(|row| row.nodes).collect();
    assert_eq!(nodes, [1, 1, 1, 2, 4, 8]);
    let alone = report("llama3-8b", "h200x1");
    assert!(alone.rows.iter().all(|row| row.nodes == row.tp));
}
