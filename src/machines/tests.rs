use serde_json::{Value, json};

use super::Description;

fn file() -> Value {
    serde_json::from_str(include_str!("h100x8.json")).expect("the file is JSON")
}

/// What is said of h100x8 with `value` at `path`; nothing at all where `value` is `None`.
fn refusal(path: &str, value: Option<Value>) -> String {
    let mut machine = file();
    let mut at = &mut machine;
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    for name in parents.split('.').filter(|name| !name.is_empty()) {
        at = &mut at[name];
    }
    let fields = at.as_object_mut().expect("an object");
    match value {
        Some(value) => drop(fields.insert(last.into(), value)),
        None => drop(fields.remove(last).expect("the field to leave out")),
    }
    match Description::from_json(&machine.to_string()) {
        Ok(_) => panic!("{path} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_file_is_whole_and_goes_by_its_name() {
    let all = Description::all().expect("every file passes its own check");
    assert_eq!(all.len(), 11);
    for (name, machine) in Description::names().zip(&all) {
        assert_eq!(machine.name, name);
        assert_eq!(&Description::named(name).expect("by name"), machine);
        // `h100x8`: GPU and number.
        assert_eq!(name, format!("{}x{}", machine.gpu.to_lowercase(), machine.gpus));
    }
}

/// The vendor's own figures follow from one another.
#[test]
fn rates_are_what_sms_and_clocks_come_to() {
    for machine in Description::all().expect("files") {
        let compute = &machine.compute;
        // Multiplications and additions of an SM a clock: 64 CUDA cores on A100, 128 after it.
        let cores = if ["A100", "A800"].contains(&machine.gpu.as_str()) {
            64.0
        } else {
            128.0
        };
        let flops = f64::from(compute.sms.value) * compute.clock_mhz.value * 1e6 * cores * 2.0 / 1e12;
        let off = flops / compute.f32_fma_tflops.value;
        assert!((0.97..1.03).contains(&off), "{}: {off}", machine.name);
        assert_eq!(compute.bf16_tflops.value, compute.f16_tflops.value);
        let tf32 = compute.bf16_tflops.value / compute.tf32_tflops.value;
        assert!((1.9..2.1).contains(&tf32), "{}: {tf32}", machine.name);
    }
}

#[test]
fn unknown_names_list_the_known_ones() {
    let error = Description::named("h100x16").expect_err("no such file").to_string();
    for part in Description::names().chain(["node is h100x16"]) {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let figure = json!({"value": 1.0, "source": "a data sheet"});
    for (path, value, named) in [
        ("gpus", None, "gpus"),
        ("link", None, "link"),
        ("memory.hbm_gb", None, "hbm_gb"),
        ("link.gb_per_s.source", None, "link.gb_per_s"),
        ("link.gb_per_s.unit", Some(json!("bits")), "link.gb_per_s"),
        ("link.kind", Some(json!("ethernet")), "link.kind"),
        ("network.latency_us", Some(json!(2.8)), "network.latency_us"),
        ("compute.sms.value", Some(json!(-1)), "compute.sms.value"),
        ("network.lanes", Some(figure), "network"),
    ] {
        let refused = refusal(path, value);
        assert!(
            refused.contains(named) && refused.contains("not readable"),
            "{path}: {refused}"
        );
    }
    for text in ["", "[]", "{\"name\": \"h1", &format!("{} x", file())] {
        assert!(Description::from_json(text).is_err(), "{text}");
    }
}

#[test]
fn what_cannot_be_is_named() {
    // Every figure, one after the other: all but two latencies are something, and all have a source.
    let machine = file();
    for group in ["compute", "memory", "link", "host", "network"] {
        for (field, figure) in machine[group].as_object().expect("a group") {
            let path = format!("{group}.{field}");
            let may_be_nothing = ["link.switch_us", "link.fence_us"].contains(&path.as_str());
            if figure["value"].is_number() && !may_be_nothing {
                let refused = refusal(&format!("{path}.value"), Some(json!(0)));
                assert!(refused.contains(&path) && refused.contains("more than 0"), "{refused}");
            }
            if figure.is_object() {
                let refused = refusal(&format!("{path}.source"), Some(json!(" ")));
                assert!(refused.contains(&format!("{path}.source")), "{refused}");
            }
        }
    }
    for (path, value, named) in [
        ("name", json!(""), "name"),
        ("name", json!("<b>"), "name is"),
        ("gpu", json!("H99"), "H100 NVL"),
        ("gpus", json!(0), "gpus"),
        ("gpus", json!(1), "gpus"),
        ("link.kind", json!("shared"), "gpus"),
        ("link.kind", json!("nv_link"), "link.multicast"),
        ("link.latency_us.value", json!(-0.5), "link.latency_us"),
        ("link.switch_us.value", json!(-0.1), "link.switch_us"),
        ("link.fence_us.value", json!(-0.1), "link.fence_us"),
        ("link.gb_per_s.value", json!(1e9), "link.gb_per_s"),
        ("link.gb_per_s.value", json!(4000.0), "memory.hbm_gb_per_s"),
        ("link.achieved_gb_per_s.value", json!(451.0), "link.achieved_gb_per_s"),
        (
            "network.achieved_gb_per_s.value",
            json!(51.0),
            "network.achieved_gb_per_s",
        ),
        ("compute.f32_fma_tflops.value", json!(1000.0), "compute.f32_fma_tflops"),
    ] {
        let refused = refusal(path, Some(value));
        assert!(refused.contains(named), "{path}: {refused}");
    }
}
