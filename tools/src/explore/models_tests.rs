use super::*;

/// The sizes come to the parameters that the authors name: nothing is left out, nothing twice.
#[test]
fn layers_come_to_the_parameters_named() {
    for model in all() {
        let layer: usize = model.linears.iter().map(|l| (l.n + l.kv) * l.k).sum();
        // GPT-3 has one embedding for both ends, the others two.
        let embeddings = if model.name == "gpt3-175b" { 1 } else { 2 };
        let sum = (model.layers * layer + embeddings * model.vocabulary * model.hidden) as f64;
        let off = sum / model.parameters;
        assert!((0.995..1.005).contains(&off), "{}: {off}", model.name);
    }
}

#[test]
fn activations_of_gpt_3_are_the_papers() {
    let model = named("GPT-3 175B").expect("known");
    // s b h (10 + 24 / t), and 34 without tensor parallelism.
    assert_eq!(model.split_bytes + model.kv_bytes, 24 * model.hidden);
    assert_eq!(model.whole_bytes, 10 * model.hidden);
}

#[test]
fn every_degree_cuts_every_weight_evenly() {
    for model in all() {
        let degrees = model.degrees(32);
        assert_eq!(degrees, [1, 2, 4, 8, 16, 32], "{}", model.name);
        for tp in degrees {
            for linear in &model.linears {
                let cut = if linear.split == Split::Row { linear.k } else { linear.n };
                assert!(cut.is_multiple_of(tp), "{} {} {tp}", model.name, linear.name);
            }
        }
    }
}

#[test]
fn names_as_people_write_them() {
    for name in ["llama3-70b", "Llama-3-70B", "LLAMA 3 70B"] {
        assert_eq!(named(name).expect("known").name, "llama3-70b");
    }
    let refused = named("llama3-7b").expect_err("unknown").message;
    assert!(all().iter().all(|model| refused.contains(model.name)), "{refused}");
}
