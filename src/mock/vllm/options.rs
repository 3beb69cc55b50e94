//! The command line of a stand-in for vLLM: that of `vllm serve`, as far as kinds and spawns use it.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt as _};

use super::Config;
use super::behaviour::{BEHAVIOUR_HELP, Behaviour};
use crate::limits::{DEVICES_PER_WORKER_MAX, THREADS_MAX};

const HELP: &str = "\
vLLM without a model and without a GPU: takes the arguments of `vllm serve`, and has no port until it is ready

Usage: rbee-mock serve MODEL --port PORT [OPTIONS]

Options:
  --served-model-name NAME        what its metrics call the model (default: MODEL)
  --host HOST                     address to bind (default 127.0.0.1)
  --port PORT                     port to bind
  --max-num-seqs N                requests at once (default 1)
  --tensor-parallel-size N        ranks: each but the first is a process that outlives it (default 1)
  --gpu-memory-utilization N      above 0, at most 1; taken, not used
  --max-model-len N, --quantization NAME, --kv-cache-dtype NAME, --enforce-eager,
  --enable-prefix-caching         taken, not used
  -h, --help                      this

It serves GET /health with an empty body, GET /metrics, and POST /v1/completions {\"prompt\",\"ms\"}, which
is a running request for so many milliseconds (default 200).

MOCK_VLLM says how it behaves, separated by commas:
";

/// What `--help` prints.
pub fn help() -> String {
    format!("{HELP}{BEHAVIOUR_HELP}")
}

impl Config {
    /// Reads it, and what `MOCK_VLLM` holds. `None`: it asks for help.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(mut args: Parser, behaviour: Option<String>) -> Result<Option<Self>, lexopt::Error> {
        let (mut model, mut served_name, mut port) = (None, None, None);
        let (mut host, mut sequences, mut ranks) = ("127.0.0.1".to_owned(), 1, 1);
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Value(path) if model.is_none() => model = Some(PathBuf::from(path)),
                Arg::Long("served-model-name") => served_name = Some(text(&mut args)?),
                Arg::Long("host") => host = text(&mut args)?,
                Arg::Long("port") => port = Some(args.value()?.parse()?),
                Arg::Long("max-num-seqs") => sequences = args.value()?.parse()?,
                Arg::Long("tensor-parallel-size") => ranks = args.value()?.parse()?,
                Arg::Long("gpu-memory-utilization") => {
                    let fraction: f64 = args.value()?.parse()?;
                    if !(fraction > 0.0 && fraction <= 1.0) {
                        return Err("--gpu-memory-utilization is above 0 and at most 1".into());
                    }
                }
                Arg::Long("max-model-len") => drop(args.value()?.parse::<u32>()?),
                Arg::Long("quantization" | "kv-cache-dtype") => drop(args.value()?),
                Arg::Long("enforce-eager" | "enable-prefix-caching") => {}
                Arg::Short('h') | Arg::Long("help") => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        if !(1..THREADS_MAX as u32).contains(&sequences) {
            return Err(format!("--max-num-seqs is from 1 to {}", THREADS_MAX - 1).into());
        }
        if !(1..=DEVICES_PER_WORKER_MAX as u32).contains(&ranks) {
            return Err(format!("--tensor-parallel-size is from 1 to {DEVICES_PER_WORKER_MAX}").into());
        }
        let model = model.ok_or("a model is needed")?;
        Ok(Some(Self {
            served_name: served_name.unwrap_or_else(|| model.to_string_lossy().into_owned()),
            model,
            host,
            port: port.ok_or("--port is needed")?,
            sequences,
            ranks,
            behaviour: Behaviour::parse(&behaviour.unwrap_or_default())?,
        }))
    }
}

fn text(args: &mut Parser) -> Result<String, lexopt::Error> {
    args.value().and_then(|value: OsString| value.string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Config>, lexopt::Error> {
        Config::parse(Parser::from_args(line.split_whitespace()), None)
    }

    #[test]
    fn it_takes_what_the_built_in_kind_gives() {
        let line = "/m --served-model-name hf:o/m --host 127.0.0.1 --port 8601 --max-model-len 4096 \
                    --max-num-seqs 2 --gpu-memory-utilization 0.250000 --tensor-parallel-size 2 --enforce-eager";
        let config = parse(line).unwrap().unwrap();
        assert_eq!((config.sequences, config.ranks, config.port), (2, 2, 8601));
        assert_eq!(config.served_name, "hf:o/m");
        assert!(parse("--help").unwrap().is_none());
        for wrong in [
            "--port 1",
            "/m",
            "/m /n --port 1",
            "/m --port 1 --gpu-memory-utilization 0.000000",
            "/m --port 1 --gpu-memory-utilization 1.1",
            "/m --port 1 --tensor-parallel-size 0",
            "/m --port 1 --max-num-seqs 64",
            "/m --port 1 --gpu 0.5",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
