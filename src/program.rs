//! The program `rbee-hive`: from a command line to what it prints and its exit code.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::cli::{self, Parsed};
use crate::devices::child;
use crate::hive::{self, Ended};
use crate::logging;
use crate::process::{guard, version_child};

/// The program `rbee-hive`: reads `args` (without the program's name), runs, and gives the exit code: 0 ok, 1
/// runtime failure, 2 usage error, 3 from `capacity` for a model that does not fit.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match cli::run(args, &|name| std::env::var_os(name)) {
        Ok(parsed) => parsed,
        Err(error) => {
            complain(&error);
            return ExitCode::from(error.exit_code);
        }
    };
    match parsed {
        Parsed::Guard(args) => guard::main(&args),
        Parsed::ProbeGpus(args) => child::main(&args),
        Parsed::AskVersion(args) => version_child::main(&args),
        Parsed::Run(task) => match task.run() {
            Ok(output) => {
                let printed = print(&output.text);
                if output.exit_code == 0 { printed } else { ExitCode::from(output.exit_code) }
            }
            Err(error) => {
                complain(&error);
                ExitCode::from(error.exit_code)
            }
        },
        Parsed::Print(text) => print(&text),
        Parsed::NoCommand(help) => {
            complain(help.trim_end());
            ExitCode::from(2)
        }
        Parsed::Serve(config) => {
            logging::init(config.log_format);
            match hive::serve(*config, announce) {
                Ok(Ended::Clean | Ended::Kept(_)) => ExitCode::SUCCESS,
                Ok(Ended::WithLeftovers(_)) => ExitCode::FAILURE,
                Err(error) => {
                    complain(format_args!("error: {error}"));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

/// Says what is wrong. Whoever reads stderr may have had enough: the exit code says it too.
fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Whoever reads it may have had enough.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(format_args!("error: stdout cannot be written: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The one line on stdout. Who started the hive may have closed it.
fn announce(url: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "rbee-hive listening on {url}").and_then(|()| out.flush());
}
