//! The examples, run: each asserts what it shows.
#![allow(dead_code)] // an example that takes arguments is not run by its main

#[path = "../examples/03_graphs.rs"]
mod graphs;
#[path = "../examples/05_llama_layer.rs"]
mod llama_layer;
#[path = "../examples/02_missing_rank.rs"]
mod missing_rank;
#[path = "../examples/04_mlp.rs"]
mod mlp;
#[path = "../examples/01_row_parallel.rs"]
mod row_parallel;

#[test]
fn row_parallel_layer() {
    row_parallel::main().unwrap();
}

#[test]
fn missing() {
    missing_rank::main().unwrap();
}

#[test]
fn graphs_of_buckets() {
    graphs::main().unwrap();
}

#[test]
fn tensor_parallel_mlp() {
    mlp::main().unwrap();
}

#[test]
fn a_step_of_training() {
    llama_layer::train(None).unwrap();
}
