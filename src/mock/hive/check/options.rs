//! What is checked, and with which times: the command line behind `rbee-mock hive --check`.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt as _};
use rustix::fs::MemfdFlags;
use serde_json::json;

use crate::id::{Backend, Device};
use crate::kinds::{Kind, manifest};
use crate::mock::demo::gguf;
use crate::{duration, limits};

/// What `rbee-mock hive --check --help` says.
pub const HELP: &str = "\
Checks a native worker: starts it as a hive does, and tries each point of docs/worker.md on it

Usage: rbee-mock hive --check [OPTIONS] -- PROGRAM [ARG]...

PROGRAM and ARGs are what a kind's manifest has as `program` and `args`, placeholders like {host} and
{parallel} included; the arguments of the native protocol follow them.

Options:
  --model PATH         what --model gets (default: a tiny GGUF)
  --model-ref REF      what --model-ref gets (default hf:check/model)
  --backend NAME       cpu, cuda, rocm, vulkan or metal (default cpu)
  --device NAME        cpu or gpuN (default cpu)
  --port PORT          the worker's port in all its launches (default: a free one)
  --ctx N              {ctx} (default 4096)
  --parallel N         {parallel} (default 1)
  --ready-within DUR   from its start to its ready (default 60s)
  --beat-within DUR    from one heartbeat to the next (default 40s); a worker that can beat faster is checked
                       sooner
  --away DUR           how long the hive is away (default: as --beat-within)
  --leave-within DUR   from POST /v1/shutdown or SIGTERM to its end (default 10s)
  --work 'PATH BODY'   a POST that fills a slot for a while: then busy is tried too
  --json               the list as JSON
  -h, --help           this

It prints a line for each check: ok, FAIL, note (allowed, but see what follows from it) or not checked.
Exit code: 0 if none failed, 1 if one did, 2 for a usage error.
";

/// What is checked, and how.
#[derive(Debug)]
pub struct Options {
    /// The program, as a kind.
    pub(super) kind: Arc<Kind>,
    pub(super) model: PathBuf,
    pub(super) model_ref: String,
    pub(super) backend: Backend,
    pub(super) device: Device,
    pub(super) port: Option<u16>,
    pub(super) ctx: u32,
    pub(super) parallel: u32,
    pub(super) ready_within: Duration,
    pub(super) beat_within: Duration,
    pub(super) leave_within: Duration,
    pub(super) away: Duration,
    /// Path and body.
    pub(super) work: Option<(String, String)>,
    /// Whether the list is wanted as JSON.
    pub json: bool,
    /// The model that nobody gave; it goes with its descriptor.
    _own_model: Option<File>,
}

impl Options {
    /// Reads what stands behind `rbee-mock hive`. `None`: help is wanted.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(mut args: Parser) -> Result<Option<Self>, lexopt::Error> {
        let (mut program, mut model, mut port, mut work, mut json) = (Vec::new(), None, None, None, false);
        let (mut model_ref, mut backend, mut device) =
            ("hf:check/model".to_owned(), Backend::Cpu, Device::Cpu);
        let (mut ctx, mut parallel, mut away) = (4096, 1, None);
        let [mut ready_within, mut beat_within, mut leave_within] =
            [limits::CHECK_READY_WITHIN, limits::CHECK_BEAT_WITHIN, limits::CHECK_LEAVE_WITHIN];
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Long("check") => {}
                Arg::Long("model") => model = Some(PathBuf::from(args.value()?)),
                Arg::Long("model-ref") => model_ref = args.value()?.string()?,
                Arg::Long("backend") => {
                    let name = args.value()?.string()?;
                    backend = name.parse().map_err(|()| "--backend is cpu, cuda, rocm, vulkan or metal")?;
                }
                Arg::Long("device") => {
                    let name = args.value()?.string()?;
                    device = name.parse().map_err(|()| "--device is cpu or gpuN")?;
                }
                Arg::Long("port") => port = Some(args.value()?.parse()?),
                Arg::Long("ctx") => ctx = args.value()?.parse()?,
                Arg::Long("parallel") => parallel = args.value()?.parse()?,
                Arg::Long("ready-within") => ready_within = time(&args.value()?.string()?)?,
                Arg::Long("beat-within") => beat_within = time(&args.value()?.string()?)?,
                Arg::Long("leave-within") => leave_within = time(&args.value()?.string()?)?,
                Arg::Long("away") => away = Some(time(&args.value()?.string()?)?),
                Arg::Long("work") => {
                    let text = args.value()?.string()?;
                    let (path, body) = text.split_once(' ').unwrap_or((&text, ""));
                    if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
                        return Err("--work is a path and a body: '/v1/completions {…}'".into());
                    }
                    work = Some((path.to_owned(), body.to_owned()));
                }
                Arg::Long("json") => json = true,
                Arg::Short('h') | Arg::Long("help") => return Ok(None),
                Arg::Value(first) => {
                    program.push(first);
                    program.extend(args.raw_args()?);
                }
                other => return Err(other.unexpected()),
            }
        }
        let kind = Arc::new(kind(program)?);
        let (model, own_model) = match model {
            Some(path) => (path, None),
            None => own_model().map(|(path, file)| (path, Some(file))).map_err(|e| e.to_string())?,
        };
        Ok(Some(Self {
            kind,
            model,
            model_ref,
            backend,
            device,
            port,
            ctx,
            parallel,
            ready_within,
            beat_within,
            leave_within,
            away: away.unwrap_or(beat_within),
            work,
            json,
            _own_model: own_model,
        }))
    }

    /// What keeps the worker on its device, as a hive says it.
    pub(super) fn visible_as(&self) -> String {
        match self.device {
            Device::Cpu => String::new(),
            Device::Gpu(number) | Device::Mig { gpu: number, .. } => number.to_string(),
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse_in(text, &limits::CHECK_TIME)
}

/// A manifest that names the program.
fn kind(program: Vec<OsString>) -> Result<Kind, String> {
    let texts: Option<Vec<String>> = program.into_iter().map(|arg| arg.into_string().ok()).collect();
    let texts = texts.ok_or("a manifest is UTF-8, hence so are PROGRAM and its arguments")?;
    let (program, args) = texts.split_first().ok_or("a program is needed: -- PROGRAM [ARG]...")?;
    let backends = ["cpu", "cuda", "rocm", "vulkan", "metal"];
    let text = json!({ "kind": "checked", "protocol": "native", "program": program, "args": args,
        "backends": backends });
    manifest::parse(text.to_string().as_bytes()).map_err(|mistake| mistake.to_string())
}

/// A model that lives as long as its descriptor.
fn own_model() -> std::io::Result<(PathBuf, File)> {
    let mut file = File::from(rustix::fs::memfd_create("model.gguf", MemfdFlags::CLOEXEC)?);
    gguf::write(&mut file)?;
    Ok((PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Options>, lexopt::Error> {
        Options::parse(Parser::from_args(args.iter().copied()))
    }

    #[test]
    fn what_stands_behind_the_program_is_the_programs() {
        let options =
            parse(&["--check", "--beat-within", "1s", "--", "w", "--json", "--port={port}"]).unwrap();
        let options = options.unwrap();
        assert!(!options.json && options.port.is_none());
        assert_eq!((options.beat_within, options.kind.args.len()), (Duration::from_secs(1), 2));
        assert_eq!(parse(&["--json", "w", "--json", "--x"]).unwrap().unwrap().kind.args.len(), 2);
    }

    #[test]
    fn mistakes_are_refused() {
        for wrong in [
            &["--check"][..],
            &["--beat-within", "soon", "--", "w"],
            &["--work", "v1", "--", "w"],
            &["--", "w", "{nothing}"],
            &["--loud", "--", "w"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&["--check", "--help"]).unwrap().is_none());
    }
}
